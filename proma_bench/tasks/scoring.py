r"""The number at the end of the solution of a word problem, read in two ways; both scores are reported.

*strict*: ``#### number``, as in VeRL, the framework of the paper's run (``verl/utils/reward_score/gsm8k.py``): the last
such number within the last 300 characters, without thousands separators. There is one difference: VeRL compares
strings, so ``18.`` and ``18.00`` do not equal ``18``; here numbers are compared.

*lenient*: if there is no such number, what the last 300 characters state as the answer. This is the first of

    the last box        ``\boxed{18}``
    after "answer is"   ``The answer is $18.``, ``**Answer:** 18``, ``####18``
    the last sentence   ``So she makes 9 * 2 = 18 dollars.``

that is there. If its number is in doubt, there is none: the others are not asked, and nothing is left out until a
number remains. The lenient number is the one that a careful reader finds, or None. ``docs/answers.md`` compares.

Both give exact fractions. A completion is untrusted input: what is read of it is short, every step takes a bounded
time, and none of it reaches a parser or an evaluator of a general language. (math-verify passes it to a LaTeX parser
and to sympy, which can take hours for a short text such as ``9^{9^{9}}`` or ``|1||1||1|...``.)
"""

from __future__ import annotations

import re
from fractions import Fraction

from proma_bench.tasks.readable import ARGUMENT, readable
from proma_bench.tasks.statements import NUMERAL, OPEN, SCALE, is_denied, is_doubtful, number

TAIL = 300
"""Number of characters at the end of a completion that are read (the same as in VeRL)."""


def strict_number(completion: str) -> Fraction | None:
    """Read the number in the strict form.

    Args:
        completion: the text of a model.

    Returns:
        The number of the last ``#### number``; None if there is none.
    """
    found = re.findall(r"#### (-?[0-9.,]+)", completion[-TAIL:])
    return _decimal(found[-1]) if found else None


def lenient_number(completion: str) -> Fraction | None:
    """Read the number in any form.

    Args:
        completion: the text of a model.

    Returns:
        The number in the strict form if there is one, otherwise the number that is stated as the answer; None if there
        is none, or it is in doubt.
    """
    strict = strict_number(completion)
    if strict is not None:
        return strict
    is_cut = len(completion) > TAIL
    text = readable(completion[-TAIL:])
    if box := _last_box(text):
        return _in_box(text, *box, is_cut)
    if _COLUMN.search(text):
        return None
    return _after_cue(text) if _CUE.search(text) else _in_last_sentence(text, is_cut)


def _decimal(text: str) -> Fraction | None:
    plain = text.replace(",", "").rstrip(".")
    return Fraction(plain) if re.fullmatch(r"-?([0-9]+(\.[0-9]+)?|\.[0-9]+)", plain) else None


_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_UNBRACED = re.compile(r"-?\\?\$?[0-9][0-9,]*(?:\.[0-9]+)?(?=[.,]?(?:[\s$)\]}]|\Z))")
_INNER_BOX = re.compile(_BOX.pattern + ARGUMENT)
_SPACES = r"(?:[ $]|\\[,;: ])*"
_SIGNS = "-+_×÷·±∓<>≤≥≠"
# What makes a box a part of an expression: -\boxed{18}, 2 \times \boxed{9}, \frac{\boxed{36}}{2}, \boxed{2}^3
_JOINED_BEFORE = re.compile(
    rf"(?:[{_SIGNS}*/^(|{{!√]|\\(?!therefore|implies|[a-zA-Z]*rightarrow|approx|quad|qquad)[a-zA-Z]+){_SPACES}\Z"
    r"|[0-9_)}] *\Z",
    re.IGNORECASE,
)
_JOINED_AFTER = re.compile(
    rf"{_SPACES}(?:[{_SIGNS}{{|]|\^(?!\{{?\\circ)|/(?!\s?[a-zA-Z{OPEN}])|\*\s*[0-9\\(]|{OPEN}?\s*{SCALE.pattern}"
    r"|\\(?!end|checkmark|blacksquare|square|qed|quad|qquad|approx)[a-zA-Z])| *[0-9]|\(",
    re.IGNORECASE,
)
_CUE = re.compile(
    r"\banswers?\b(?:[^.\n0-9\\$=:]{0,60}?(?:\b(?P<verb>is|are|be|equals?)\b|[:=])|[^\w.]*\n)"
    r"|#{4,}(?=[\s*_]*[-+]?\s*(?:\\|\$|\.?[0-9]))",
    re.IGNORECASE,
)
_END = re.compile(r"([.!?](?=[\"'*_)”]*(?:\s|\Z))|\n)")
_RETRACTION = re.compile(
    r"(?:[.!?…\n)}$]|\A)[\s*_$)\]\\]*(?:wait|oops|hmm+|actually|correction|sorry|no|hold on|on second thought)"
    r"(?:[,.!:;…—-]|\s+(?:it|that|this|the answer|no)\b)",
    re.IGNORECASE,
)
_COLUMN = re.compile(r"^[ $\\\d.,+-]*\d[ $\\\d.,+-]*\n\s*[$\\\d.,+-]*\d[ $.]*$", re.MULTILINE)


def _last_box(text: str) -> tuple[int, int, str] | None:
    """The beginning and the end of the last box, and its content, which is empty if it is damaged."""
    found, position = None, 0
    while box := _BOX.search(text, position):
        content, position = _content(text, box.end())
        found = box.start(), position, content
    return found


def _content(text: str, start: int) -> tuple[str, int]:
    """What is in a box, and where it ends."""
    if not text.startswith("{", start):
        unbraced = _UNBRACED.match(text, start)
        return (unbraced[0], unbraced.end()) if unbraced else ("", start)
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start + 1 : start + brace.start()], start + brace.end()
    return "", len(text)


def _in_box(text: str, start: int, end: int, content: str, is_cut: bool) -> Fraction | None:
    """The number in a box, if the box is not part of an expression and no other answer follows."""
    before, after = text[:start], text[end:]
    is_joined = _JOINED_BEFORE.search(before) or _JOINED_AFTER.match(after)
    if _RETRACTION.search(after):
        return None
    if (
        _RETRACTION.search(after)
        or is_joined
        or is_doubtful(_END.split(before)[-1])
        or (is_cut and len(before) < len(r"\times $$ "))
    ):
        return None
    found, later = number(_INNER_BOX.sub(r"\1", content), boxed=True), _after_cue(after)
    return found if later in (None, found) else None


def _after_cue(text: str) -> Fraction | None:
    """What is said after the last "answer is"."""
    cues = list(_CUE.finditer(text))
    if not cues:
        return None
    cue = cues[-1]
    statement, end, rest = [*_END.split(text[cue.end() :].lstrip(" \n:*_#`"), maxsplit=1), "", ""][:3]
    denied = is_denied(_END.split(text[: cue.start()])[-1] + cue[0]) or _RETRACTION.search(rest)
    found = None if denied or end == "?" or NUMERAL.search(statement) else number(statement)
    is_heading = not cue["verb"] and not re.search(r"\w", text[: cue.start()])
    if is_heading and re.search("[0-9]", rest):  # perhaps of the whole solution
        result = _in_last_sentence(rest, is_cut=False)
        return result if result == found or not re.search("[0-9]", statement) else None
    return found


def _in_last_sentence(text: str, is_cut: bool) -> Fraction | None:
    """What the last sentence with a number says."""
    parts = [*_END.split(text), ""]
    sentences, ends = parts[::2], parts[1::2]
    for place in reversed(range(len(sentences))):
        sentence, end = sentences[place], ends[place]
        if re.search("[0-9]", sentence):
            is_item = place > 0 and end == "." and sentence.strip().isdigit()
            return None if end == "?" or is_item or (is_cut and place == 0) else number(sentence)
        if NUMERAL.search(sentence):
            return None
    return None
