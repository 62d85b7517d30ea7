r"""The exact value of an arithmetic expression, in LaTeX or plain: ``10\sqrt{4}``, ``2\frac{1}{2}``, ``(6 + 3) * 2``.

An expression has a value only if all of it is understood, and can be understood in one way. Nothing is skipped. Each of
the following means different things to different readers, and has no value:

    3-5  2-1/2  2020-10-12   a difference, a range, a mixed number or a date; 10 - 3 is a difference, 3 - 10 is not
    12/25/2020  6/2(1+2)     a date, or a question of what is divided by what
    1,23  1.234,5            a list, or decimals of another country; 1,234 and 1 234 are thousands, 1.234 is not
    2\frac{3}{2}             a product, or a strange mixed number
    2^3^2  \frac12^2         a question of what is raised
    {3+4}^2                  the braces are not seen
    (1,234)                  a number, or a pair

A hostile text cannot take long: it is read once from left to right, it has at most `LONGEST` characters, brackets are
nested at most `DEEPEST` deep, and numbers have at most `LARGEST` bits. It is not passed to any other parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

LONGEST = 300
"""Largest number of characters of an expression."""

DEEPEST = 8
"""Largest depth of nested brackets."""

LARGEST = 1024
"""Largest number of bits of a numerator or a denominator."""


class _NoValueError(Exception):
    """The text cannot be understood, or not in one way."""


def value(expression: str) -> Fraction | None:
    """The exact value of an arithmetic expression.

    Args:
        expression: the text, which may be hostile.

    Returns:
        The value; None if the text is not understood, or the value is irrational or too large.
    """
    text = expression.strip()
    if len(text) > LONGEST or _RANGE.fullmatch(text) or _PAIR.search(text):
        return None
    if re.fullmatch("-?0[0-9]+", text):  # within an expression, such a number may be part of a date or a time
        return Fraction(text)
    reader = _Reader(text)
    try:
        found = reader.sum()
    except (_NoValueError, ZeroDivisionError):
        return None
    is_range = found < 0 and _DIFFERENCE.fullmatch(text)
    return found if reader.is_at_end() and not is_range else None


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.ASCII)


_RANGE = _pattern(r"[\d.,]+(-[\d.,]+)+(/\d+)?")
_DIFFERENCE = _pattern(r"[\d.,]+\s+-\s+[\d.,]+")
_PAIR = _pattern(r"[(\[]\s*\d{1,3}(,\d{3})+\s*(\\right\s*)?[)\]]")
_SPACE = _pattern(r"(?:\s|~|\\[,;:! ]|\\q?quad(?![a-zA-Z]))*")
_SEPARATOR = r"(?P<separator>,|\{,\}|~| |\\[,;:! ]|,\\!|\{,\}\\!|\\!,\\!)"
# What follows a number must not be able to belong to it.
_NUMBER = _pattern(
    rf"(?:(?P<grouped>[1-9]\d{{0,2}}{_SEPARATOR}\d{{3}}(?:(?P=separator)\d{{3}})*)|(?P<whole>0|[1-9]\d*)|(?=\.))"
    r"(?P<decimals>\.\d+)?(?P<exponent>[eE][+-]?\d{1,2})?(?![\w.]|[,']\d|\{,\})"
)
_MIXED = _pattern(r"\s+(\d{1,2})\s?/\s?(\d{1,2})(?!\w|[.,(]|\s*[\^/*])")
_MIXED_LATEX = _pattern(r"\\[dtc]?frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))(?!\d)")
_FRACTION = _pattern(r"\\[dtc]?frac(?![a-zA-Z])")
_ROOT_LATEX = _pattern(r"\\sqrt(?![a-zA-Z])")
_ROOT = _pattern(r"√")
_TIMES = _pattern(r"\\(?:times|cdot|ast)(?![a-zA-Z])|\*(?!\*)|×|·")
_OVER = _pattern(r"\\div(?![a-zA-Z])|/|÷")
_POWER = _pattern(r"\^|\*\*")
_SIGN = _pattern(r"[+-]")
_LEFT = _pattern(r"\\left\s*[(\[]")
_RIGHT = {"(": _pattern(r"\)"), "[": _pattern(r"\]"), "{": _pattern(r"\}")}
_RIGHT_LATEX = {"(": _pattern(r"\\right\s*\)"), "[": _pattern(r"\\right\s*\]")}
_OPENING = _pattern(r"[(\[{]")
_DIGIT = _pattern(r"\d")
_EXPONENT = _pattern(r"-?\d+(?![\w.(]|,\d)")
_RADICAND = _pattern(r"\d+(?![\w.(]|,\d)")
_DEGREE = _pattern(r"\[([2-9])\]")


class _Reader:
    """A recursive descent: each method reads what it is named after, and moves the position to its end."""

    def __init__(self, text: str) -> None:
        self._text, self._position, self._depth = text, 0, 0

    def is_at_end(self) -> bool:
        return self._after_spaces() == len(self._text)

    def sum(self) -> Fraction:
        total = self._signed(self._product)
        while sign := self._next(_SIGN):
            total = _limited(total + self._product() * (1 if sign[0] == "+" else -1))
        return total

    def _product(self) -> Fraction:
        total, divided = self._power(), False
        while True:
            if self._next(_TIMES):
                total = _limited(total * self._signed(self._power))
            elif divided and (self._sees(_OVER) or self._is_multiplied()):
                raise _NoValueError
            elif self._next(_OVER):
                total, divided = _limited(total / self._signed(self._power)), True
            elif self._is_multiplied():
                total = _limited(total * self._power())
            else:
                return total

    def _is_multiplied(self) -> bool:
        r"""Whether a factor follows without a sign, as in ``2(3)`` and ``10\sqrt{4}``, but not in ``18 (3)``."""
        if self._text.startswith("(", self._position):
            if re.search(r"\.\d+\Z", self._text[: self._position]):  # 1.23(4) is 1.23 with an uncertainty, 0.(3) is 1/3
                raise _NoValueError
            return True
        return any(map(self._sees, (_LEFT, _ROOT, _ROOT_LATEX)))

    def _signed(self, read: Callable[[], Fraction]) -> Fraction:
        sign = self._next(_SIGN)
        return -read() if sign and sign[0] == "-" else read()

    def _power(self) -> Fraction:
        base, is_one = self._atom()
        if not self._next(_POWER):
            return base
        exponent = self._group(sees_braces=True) if self._sees(_OPENING) else Fraction(self._need(_EXPONENT)[0])
        if not is_one or self._sees(_POWER) or exponent.denominator != 1 or (base == 0 and exponent <= 0):
            raise _NoValueError
        if abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length()) > LARGEST:
            raise _NoValueError
        return base ** int(exponent)

    def _atom(self) -> tuple[Fraction, bool]:
        """A number, fraction, root or group, and whether it can be raised without doubt about what is raised."""
        if number := self._next(_NUMBER):
            return self._number(number)
        if self._next(_FRACTION):
            return _limited(self._argument() / self._argument()), False
        if self._next(_ROOT):
            return _root(self._group() if self._sees(_OPENING) else Fraction(self._need(_RADICAND)[0]), 2), True
        if self._next(_ROOT_LATEX):
            degree = self._next(_DEGREE)
            return _root(self._argument(), int(degree[1]) if degree else 2), True
        return self._group(), True

    def _number(self, number: re.Match[str]) -> tuple[Fraction, bool]:
        digits = re.sub("[^0-9]", "", number["grouped"] or number["whole"] or "0")
        found = Fraction(digits + (number["decimals"] or "") + (number["exponent"] or ""))
        if number["decimals"] or number["exponent"]:
            return found, True
        over = self._text[: number.start()].rstrip().endswith("/")
        if (mixed := _MIXED.match(self._text, self._position)) and not over:  # 3/2 1/2 is in doubt
            self._position = mixed.end()
        elif not (mixed := self._next(_MIXED_LATEX)):
            return found, True
        part = Fraction(*(int(digits) for digits in mixed.groups() if digits))
        if not 0 < part < 1:
            raise _NoValueError
        return found + part, False

    def _argument(self) -> Fraction:
        """The argument of a command: a group, or one digit."""
        if self._sees(_DIGIT):
            return Fraction(self._need(_DIGIT)[0])
        return self._group(sees_braces=True)

    def _group(self, sees_braces: bool = False) -> Fraction:
        self._depth += 1
        if self._depth > DEEPEST:
            raise _NoValueError
        if left := self._next(_LEFT):
            found, closing = self.sum(), _RIGHT_LATEX[left[0][-1]]
        else:
            opening = self._need(_OPENING)[0]
            found = self.sum() if sees_braces or opening != "{" else self._power()
            closing = _RIGHT[opening]
        self._need(closing)
        self._depth -= 1
        return found

    def _sees(self, pattern: re.Pattern[str]) -> bool:
        """Whether the pattern is next, after spaces."""
        return pattern.match(self._text, self._after_spaces()) is not None

    def _next(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Read the pattern if it is next, after spaces."""
        if found := pattern.match(self._text, self._after_spaces()):
            self._position = found.end()
        return found

    def _need(self, pattern: re.Pattern[str]) -> re.Match[str]:
        if found := self._next(pattern):
            return found
        raise _NoValueError

    def _after_spaces(self) -> int:
        spaces = _SPACE.match(self._text, self._position)
        return spaces.end() if spaces else self._position


def _limited(number: Fraction) -> Fraction:
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > LARGEST:
        raise _NoValueError
    return number


def _root(radicand: Fraction, degree: int) -> Fraction:
    """The root, which must be rational."""
    return Fraction(_integer_root(radicand.numerator, degree), _integer_root(radicand.denominator, degree))


def _integer_root(radicand: int, degree: int) -> int:
    """By bisection.

    Raises:
        _NoValueError: the root is not an integer.
    """
    low, high = 0, 1 << (radicand.bit_length() // degree + 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if middle**degree >= radicand else (middle + 1, high)
    if low**degree != radicand:
        raise _NoValueError
    return low
