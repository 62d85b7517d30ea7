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
from proma_bench.tasks.statements import NUMERAL, is_denied, is_doubtful, number

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
    if boxes := _boxes(text):
        return _in_last_box(text, boxes, is_cut)
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
# What makes a box a part of an expression: -\boxed{18}, 2 \times \boxed{9}, \frac{\boxed{36}}{2}, x\boxed{18}
_JOINED_BEFORE = re.compile(
    rf"(?:[-+_×÷·±∓<>≤≥≠*/^(|{{!√]|\\(?!therefore|implies|[a-zA-Z]*rightarrow|approx|quad|qquad)[a-zA-Z]+){_SPACES}\Z"
    r"|[0-9_)}] *\Z|(?<![^\W\d_])[^\W\d_]\Z|(?:[0-9%}]|\bpercent)\s+of(?:\s+the)?[ $]*\Z",
    re.IGNORECASE,
)
# What ends the mathematics or the emphasis that a box is in, and what ends a proof.
_CLOSING = re.compile(
    r"[}\])$*_`!]*(?:(?:\s|\\[,;: ]|\\q?quad(?![a-zA-Z]))*"
    r"(?:\\(?:checkmark|blacksquare|square|qed)(?![a-zA-Z])|[■□∎✓✔✅]))*"
)
# Between two boxes of one sentence: that the second one follows from the first.
_CONSEQUENCE = re.compile(
    r"\b(?:then|so|hence|thus|therefore|finally|gives?|makes?|equals?|becomes?|leaves?)\b|\A[\s$]*=|⇒|→|\\implies|arrow",
    re.IGNORECASE,
)
_CONNECTIVES = re.compile(r"\\?[a-zA-Z]*\{|\b(?:and|or|vs|to)\b", re.IGNORECASE)
_CUE = re.compile(
    r"\banswers?\b(?:[^.\n0-9\\$=:]{0,60}?(?:\b(?P<verb>is|are|be|equals?)\b|[:=])|[^\w.]*\n)"
    r"|#{4,}(?=[\s*_]*[-+]?\s*(?:\\|\$|\.?[0-9]))",
    re.IGNORECASE,
)
_END = re.compile(r"([.!?](?=[\"'*_)”]*(?:\s|\Z))|\n)")
_RETRACTION = re.compile(
    r"(?:[.!?…\n)}$]|\A)[\s*_$)\]\\]*(?:wait|oops|hmm+|actually|correction|sorry|no|hold on|on second thought)"
    r"(?:[,.!:;…—-]|\s+(?:it|that|this|the answer|no)\b)"
    r"|\b(?:mistake|incorrect|wrong|not (?:quite|right|correct)|\w+n['’]t (?:right|correct)|re-?check)\b"
    r"|\bshould (?:be|have been)\b",
    re.IGNORECASE,
)
_COLUMN = re.compile(r"^[ $\\\d.,+-]*\d[ $\\\d.,+-]*\n\s*[$\\\d.,+-]*\d[ $.]*$", re.MULTILINE)


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """The beginning and the end of each box, and its content, which is empty if it is damaged."""
    found, position = [], 0
    while box := _BOX.search(text, position):
        content, position = _content(text, box.end())
        found.append((box.start(), position, content))
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


def _in_last_box(text: str, boxes: list[tuple[int, int, str]], is_cut: bool) -> Fraction | None:
    """The number in the last box, if it is all of the answer and no other answer follows."""
    start, end, content = boxes[-1]
    before, after = text[:start], text[end:]
    if (
        _RETRACTION.search(after)
        or _JOINED_BEFORE.search(before)
        or is_doubtful(_END.split(before)[-1])
        or (is_cut and len(before) < len(r"\times $$ "))
        or any(other != content and _are_side_by_side(text[stop:start]) for _, stop, other in boxes[-2:-1])
    ):
        return None
    found, later = number(_INNER_BOX.sub(r"\1", content), boxed=True), _after_cue(after)
    return found if found is not None and later in (None, found) and _has_unit_alone(found, after) else None


def _are_side_by_side(between: str) -> bool:
    """Whether two boxes are two answers, and not an answer and what it follows from."""
    in_one_sentence = not _END.search(between) or not re.search(r"[^\W\d_]{2}", _CONNECTIVES.sub("", between))
    return in_one_sentence and not _CONSEQUENCE.search(between)


def _has_unit_alone(found: Fraction, after: str) -> bool:
    """Whether nothing but a unit follows the box in its sentence: it says the same number without the box."""
    rest, end, *_ = [*_END.split(_CLOSING.sub("", after, count=1), maxsplit=1), ""]
    words = re.split(r"\(|\\end\{", rest, maxsplit=1)[0]
    return end != "?" and not is_denied(rest) and number(f"{found}{words}") == found


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
            is_taken_back = _RETRACTION.search("".join(parts[2 * place + 1 :]))
            is_doubted = end == "?" or is_item or (is_cut and place == 0) or is_taken_back
            return None if is_doubted else number(sentence)
        if NUMERAL.search(sentence):
            return None
    return None
