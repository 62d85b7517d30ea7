"""Differences with their intervals and adjusted p-values, as cells of a page show them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np

from recomputed.page import interval_shown, shown
from recomputed.statistics import interval, p_value
from recomputed.verdicts import bounded, holm_bounds


def wrong_cells(cells: Mapping[Hashable, str], values: Mapping[Hashable, np.ndarray]) -> list[tuple[object, ...]]:
    """Those of a column that are not the interval and the adjusted p-value of these differences, by name."""
    levels = holm_bounds([bounded(p_value(one), len(one)) for one in values.values()])
    wrong = []
    for (name, one), level in zip(values.items(), levels, strict=True):
        difference, _, adjusted_p = cells[name].partition("<br>Holm ")
        if not (interval_shown(difference, interval(one, 0.95)) and level_shown(adjusted_p, *level[1:])):
            wrong.append((name, cells[name], interval(one, 0.95), level))
    return wrong


def level_shown(text: str, low: float, high: float) -> bool:
    """Whether a p-value between the two may be shown like this."""
    return low < float(text[2:]) if text.startswith("< ") else shown(f"+{text}", low, high)
