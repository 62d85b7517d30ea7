"""JSON as its standard has it: no NaN, no infinity, no name twice in an object, and no endless nesting."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

DEEPEST = 20
"""Levels of lists and objects."""


class NotANumber(ValueError):
    """NaN or an infinity, which Python's json would write and read."""


def dumps(value: object, *, indent: int | None = None) -> bytes:
    """The value as a text that ends a line; ValueError for a number that is not finite."""
    return (json.dumps(value, indent=indent, allow_nan=False) + "\n").encode()


def loads(text: bytes | str) -> Any:
    """The value of a text.

    Raises:
        NotANumber: it holds a number that JSON does not have.
        ValueError: it is not JSON, nested too deeply, or has a number beyond any float, or a name twice.
    """
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_refuse, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _is_deeper(value, DEEPEST):
        raise ValueError("nested too deeply")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object, of which Python's json would keep the last value of each name."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r:.40} is there twice")
        found[name] = value
    return found


def _finite(digits: str) -> float:
    """The number, which Python's json would read as an infinity if it is too large."""
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits:.20} is too large a number")
    return value


def _refuse(constant: str) -> NoReturn:
    raise NotANumber(f"{constant} is not JSON")


def _is_deeper(value: object, levels: int) -> bool:
    """Level by level, as a function that calls itself would run out of stack."""
    level = [value]
    for _ in range(levels):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [value for values in inner for value in values]
    return bool(level)
