r"""The number at the end of the solution of a word problem, read in two ways; both scores are reported.

*strict*: ``#### number``, as in VeRL, the framework of the paper's run (``verl/utils/reward_score/gsm8k.py``): the last
such number within the last 300 characters, without thousands separators. There is one difference: VeRL compares
strings, so ``18.`` and ``18.00`` do not equal ``18``; here numbers are compared.

*lenient*: if there is no such number, the answer that math-verify finds: ``\boxed{18}``, ``The answer is $18.``

Both give exact fractions. A completion is untrusted input. math-verify passes its findings to a LaTeX parser and to
sympy, which can take hours for a short text (``9^{9^{9}}``, ``|1||1||1|...``). The time limits of math-verify use
signals, which fail outside the main thread. Therefore `readable` limits the time: it removes everything that can take
long from the text.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction

import math_verify
from math_verify.grader import is_equation, take_last_relation
from sympy import Basic, Float, Rational

TAIL = 300
"""Number of characters at the end of a completion that are read (the same as in VeRL)."""

DEEPEST = 3
"""Largest depth of nested brackets. The parser's time grows exponentially with the depth."""

WORDS = "final answer is".split()
"""The words that math-verify looks for before an answer."""

COMMANDS = "boxed frac dfrac tfrac times cdot div left right".split()
"""The LaTeX commands that are read. All of them are arithmetic."""

# Without a time limit, math-verify prints a warning.
logging.getLogger("math_verify").setLevel(logging.ERROR)


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
        The number in the strict form if there is one, otherwise the number that math-verify finds; None if it finds
        none.
    """
    strict = strict_number(completion)
    if strict is not None:
        return strict
    found = math_verify.parse(readable(completion), fallback_mode="no_fallback", parsing_timeout=None)
    return _value(found[0]) if found else None


def readable(completion: str) -> str:
    """The part of a completion that math-verify reads: simple arithmetic in its last characters.

    This is ASCII digits, signs, brackets up to the depth `DEEPEST`, `WORDS` and `COMMANDS`. Powers, factorials, symbols
    and units, including percent, are removed.

    Args:
        completion: the text of a model.

    Returns:
        The text for math-verify; empty if brackets are nested too deeply.
    """
    text = completion[-TAIL:].translate(_PLAIN)
    for pattern, replacement in _REPLACEMENTS:
        text = pattern.sub(replacement, text)
    return text if _depth(text) <= DEEPEST else ""


_PLAIN = str.maketrans({"−": "-", "×": "*", "÷": "/", **dict.fromkeys("€£¥₹", "$")})

_REPLACEMENTS = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in [
        (r"[^\S\n]", " "),
        (r"[^\x20-\x7e\n]", "?"),
        (r"#{4,}", " answer: "),  # almost the strict form
        (r"\\text\{[^{}]*\}", " "),
        (r"\\[,;:! ]", ""),  # thin spaces, also within numbers
        (r"\\?%", " "),
        (r"[\w.()]*(?:\^|(?<=[\d)])\*\*(?=[\d(-]))(?:\{[^{}]*\}|[\w.+-]*)", " "),  # powers
        (r"\*\*|_", " "),  # bold
        (rf"\\(?!(?:{'|'.join(COMMANDS)})(?![a-z]))[a-z]+", " "),
        (rf"(?<![\\a-z])(?!(?:{'|'.join(WORDS)})\b)[a-z]\w*", " "),
        (r"-\\\$|(?<!\S)-\$(?=[\d.])", "-"),  # -$18
        (r"\\\$", " "),
        (r"\\[{}]|(?<!\\)[\[\]]|[^\w\s.,:=+*/(){}$\\\[\]?-]", " "),
    ]
]


def _depth(text: str) -> int:
    """The largest depth of nested brackets of all kinds. A closing bracket without an opening one is ignored."""
    depth = deepest = 0
    for sign in text:
        depth = max(0, depth + (sign in "([{") - (sign in ")]}"))
        deepest = max(deepest, depth)
    return deepest


def _decimal(text: str) -> Fraction | None:
    plain = text.replace(",", "").rstrip(".")
    return Fraction(plain) if re.fullmatch(r"-?([0-9]+(\.[0-9]+)?|\.[0-9]+)", plain) else None


def _value(found: object) -> Fraction | None:
    """The value of an expression, or of the right-hand side of an equation (6*3 = 18)."""
    try:
        if isinstance(found, Basic) and is_equation(found):
            found = take_last_relation(found).rhs
        number = found.doit() if isinstance(found, Basic) else None
        return Fraction(str(number)) if isinstance(number, Rational | Float) else None
    except Exception:  # sympy can raise anything for the text of a model
        return None
