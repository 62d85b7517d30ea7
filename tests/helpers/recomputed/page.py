"""Tables as they stand on a page, and whether a number may be shown like this."""

from __future__ import annotations

import math
import re

from recomputed.statistics import SIGMAS, Interval


def between(page: str, marker: str) -> str:
    """What the page has between two markers: nothing where they are missing."""
    found = re.search(rf"<!-- {re.escape(marker)} -->(.*?)<!-- /", page, flags=re.DOTALL)
    return found.group(1) if found else ""


def table(text: str, title: str) -> list[dict[str, str]]:
    """The table below a bold title: a dictionary, heading to cell, for each row."""
    below = text[text.find(title) :] if title in text else ""
    cells = [[cell.strip() for cell in line.strip()[1:-1].split(" | ")] for line in _table_lines(below)]
    heading, _, *rows = cells or [[], []]
    return [dict(zip(heading, row, strict=True)) for row in rows]


def _table_lines(text: str) -> list[str]:
    found = re.search(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)
    return found.group(0).splitlines() if found else []


def methods(page: str) -> dict[str, str]:
    """The names of methods by their titles, from the method cards."""
    return dict(re.findall(r"^### (.+)\n`--method ([\w-]+)`", between(page, "cards"), flags=re.MULTILINE))


NUMBER = r"[+-]?\d[\d.]*(?:e[+-]\d+)?"


def numbers(text: str) -> list[str]:
    return re.findall(NUMBER, text)


def shown(text: str, low: float, high: float) -> bool:
    """Whether a number between the two may be shown like this: with these decimals or, signed, with two digits."""
    value, (digits, _, exponent) = float(text), text.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    if text[0] in "+-" and value:  # zeros at the end are not shown
        unit = min(unit, 10.0 ** (math.floor(math.log10(abs(value))) - 1))
    slack = (0.5 + 1e-6) * unit
    return low - slack <= value <= high + slack


def interval_shown(text: str, found: Interval) -> bool:
    """Whether an interval, such as +0.1 [+0.05, +0.15], may be shown like this."""
    if math.isnan(found.end(-1)):
        (estimate,) = numbers(text)
        return shown(estimate, found.centre, found.centre)
    estimate, *ends = numbers(text)
    bounds = [sorted((found.end(side, -SIGMAS), found.end(side, SIGMAS))) for side in (-1, +1)]
    right = [shown(end, *bound) for end, bound in zip(ends, bounds, strict=True)]
    return shown(estimate, found.centre, found.centre) and all(right)
