r"""Arithmetic expressions of which the value is known, because it is computed while they are composed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

SUM, PRODUCT, POWER, ATOM = range(4)


@dataclass(frozen=True)
class Expression:
    """Attributes:
    text: in LaTeX or plain.
    value: what it is worth.
    binds: how tightly its weakest operation binds, from `SUM` to `ATOM`.
    """

    text: str
    value: Fraction
    binds: int


def composed(chance: random.Random, style: Literal["latex", "plain"], depth: int = 3) -> Expression:
    """A random expression.

    Args:
        chance: the source of randomness.
        style: how it is written.
        depth: the largest number of operations in each other.
    """
    if depth == 0 or chance.random() < 0.15:
        return _number(chance, style)
    latex = style == "latex"
    make = chance.choice([_sum, _product, _quotient, _power, _number, *([_root, _mixed] if latex else [])])
    return make(chance, style, depth - 1)


def _in_brackets(inner: Expression, chance: random.Random, style: str) -> Expression:
    left, right = chance.choice([("(", ")"), (r"\left(", r"\right)")]) if style == "latex" else ("(", ")")
    return Expression(f"{left}{inner.text}{right}", inner.value, ATOM)


def _at_least(binds: int, inner: Expression, chance: random.Random, style: str) -> Expression:
    is_enough = inner.binds >= binds and not (inner.text.startswith("-") and binds > SUM)
    return inner if is_enough and chance.random() < 0.9 else _in_brackets(inner, chance, style)


def _number(chance: random.Random, style: str, _: int = 0) -> Expression:
    whole = chance.choice([chance.randrange(10), chance.randrange(1000), chance.randrange(10**7)])
    decimals = chance.choice(["", "", "", f".{chance.randrange(10)}", f".{chance.randrange(100):02}"])
    separator = chance.choice(["", "", ","] + ([r"\,", "{,}"] if style == "latex" else []))
    text = f"{whole:,}".replace(",", separator) + decimals
    if style == "latex" and chance.random() < 0.1:
        text = chance.choice([r"\text{%s}", r"\mathbf{%s}", r"\mathrm{%s}", "{%s}"]) % text
    return Expression(text, Fraction(f"{whole}{decimals}"), ATOM)


def _sum(chance: random.Random, style: str, depth: int) -> Expression:
    first = _at_least(SUM, composed(chance, style, depth), chance, style)
    second = _at_least(PRODUCT, composed(chance, style, depth), chance, style)
    sign = chance.choice(["+", "-"])
    space = chance.choice(["", " "])
    value = first.value + second.value if sign == "+" else first.value - second.value
    return Expression(f"{first.text}{space}{sign}{space}{second.text}", value, SUM)


def _product(chance: random.Random, style: str, depth: int) -> Expression:
    first = _at_least(PRODUCT, composed(chance, style, depth), chance, style)
    second = _at_least(POWER, composed(chance, style, depth), chance, style)
    signs = [r" \times ", r" \cdot ", "*", " × "] if style == "latex" else ["*", " * ", " × ", " x "]
    value = first.value * second.value
    if chance.random() < 0.2 and first.text.isdigit():
        return Expression(first.text + _in_brackets(second, chance, style).text, value, PRODUCT)
    return Expression(f"{first.text}{chance.choice(signs)}{second.text}", value, PRODUCT)


def _quotient(chance: random.Random, style: str, depth: int) -> Expression:
    first, second = composed(chance, style, depth), composed(chance, style, depth)
    value = first.value / (second.value or 1)
    if not second.value:
        second = Expression("1", Fraction(1), ATOM)
    if style == "latex" and chance.random() < 0.7:
        return Expression(rf"\{chance.choice(['frac', 'dfrac'])}{{{first.text}}}{{{second.text}}}", value, ATOM)
    first, second = _at_least(PRODUCT, first, chance, style), _at_least(POWER, second, chance, style)
    return Expression(f"{first.text}{chance.choice(['/', ' / ', ' ÷ '])}{second.text}", value, PRODUCT)


def _power(chance: random.Random, style: str, depth: int) -> Expression:
    base = composed(chance, style, depth)
    if base.binds < ATOM or "frac" in base.text or chance.random() < 0.3:
        base = _in_brackets(base, chance, style)
    exponent = chance.choice([0, 1, 2, 3, 10, -1, -2] if base.value else [1, 2])
    if style == "latex":
        text = f"{base.text}^{{{exponent}}}"
    else:
        text = base.text + chance.choice(["^", "**"]) + (str(exponent) if exponent >= 0 else f"({exponent})")
    return Expression(text, base.value**exponent, POWER)


def _root(chance: random.Random, style: str, _: int) -> Expression:
    root, factor = chance.randrange(1, 30), chance.choice([1, 1, 2, 10])
    text = (str(factor) if factor > 1 else "") + rf"\sqrt{{{root**2}}}"
    return Expression(text, Fraction(root * factor), ATOM if factor == 1 else PRODUCT)


def _mixed(chance: random.Random, style: str, _: int) -> Expression:
    whole, bottom = chance.randrange(1, 20), chance.randrange(2, 13)
    top = chance.randrange(1, bottom)
    return Expression(rf"{whole}\frac{{{top}}}{{{bottom}}}", whole + Fraction(top, bottom), PRODUCT)
