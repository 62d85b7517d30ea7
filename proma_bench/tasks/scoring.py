r"""The number at the end of a solution of a word problem, read in two ways that are reported side by side.

*strict*: ``#### number``, as VeRL reads it, the framework of the paper's run (``verl/utils/reward_score/gsm8k.py``):
the last such number within the last 300 characters, without its thousands separators. One thing differs: VeRL compares
strings, so that ``18.`` and ``18.00`` are not 18 to it; here numbers are compared.

*lenient*: where there is no such line, what math-verify takes for the answer: ``\boxed{18}``, ``The answer is $18.``

Both give exact fractions. A completion is hostile input, and math-verify hands what it finds to a parser of LaTeX and
to sympy, where a short text can take hours (``9^{9^{9}}``, ``|1||1||1|...``). Its time limits are signals, which fail
outside the main thread, so the time is bounded by what it gets to read (`readable`).
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction

import math_verify
from math_verify.grader import is_equation, take_last_relation
from sympy import Basic, Float, Rational

TAIL = 300
"""Characters at the end of a completion that are read at all (VeRL's number)."""

DEEPEST = 3
"""Brackets within brackets; the parser's time grows exponentially with them."""

WORDS = "final answer is".split()
"""What math-verify looks for before an answer."""

COMMANDS = "boxed frac dfrac tfrac times cdot div left right".split()
"""LaTeX that is read; all of it is arithmetic."""

# It warns that its time limit is off.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def strict_number(completion: str) -> Fraction | None:
    """The number of the last ``#### number``; None where there is none."""
    found = re.findall(r"#### (-?[0-9.,]+)", completion[-TAIL:])
    return _decimal(found[-1]) if found else None


def lenient_number(completion: str) -> Fraction | None:
    """`strict_number`, or else what math-verify finds; None where that is no number."""
    strict = strict_number(completion)
    if strict is not None:
        return strict
    found = math_verify.parse(readable(completion), fallback_mode="no_fallback", parsing_timeout=None)
    return _value(found[0]) if found else None


def readable(completion: str) -> str:
    """What math-verify gets to read: the tail, with nothing left in it that is not simple arithmetic.

    ASCII digits, signs, brackets at most DEEPEST deep, and the WORDS and COMMANDS. Powers, factorials, symbols and
    units, including percent, are removed.
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
        (r"#{4,}", " answer: "),  # the strict form, not quite kept
        (r"\\text\{[^{}]*\}", " "),
        (r"\\[,;:! ]", ""),  # small spaces, also within numbers
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
    """The depth of brackets of all kinds. A closing one without an opening one does not count."""
    depth = deepest = 0
    for sign in text:
        depth = max(0, depth + (sign in "([{") - (sign in ")]}"))
        deepest = max(deepest, depth)
    return deepest


def _decimal(text: str) -> Fraction | None:
    plain = text.replace(",", "").rstrip(".")
    return Fraction(plain) if re.fullmatch(r"-?([0-9]+(\.[0-9]+)?|\.[0-9]+)", plain) else None


def _value(found: object) -> Fraction | None:
    """Of an expression, or of the last part of 6*3 = 18."""
    try:
        if isinstance(found, Basic) and is_equation(found):
            found = take_last_relation(found).rhs
        number = found.doit() if isinstance(found, Basic) else None
        return Fraction(str(number)) if isinstance(number, Rational | Float) else None
    except Exception:  # sympy's, on what a model wrote
        return None
