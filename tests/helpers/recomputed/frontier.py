"""Runs of one method at several learning rates, read off along another metric."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from recomputed.statistics import Values, interval, p_value

Columns = dict[str, Values]
"""The metrics of one run, one value a step; NaN where nothing was measured."""
Criteria = dict[str, Any]

DOUBT = 0.01
HIGHER_IS_BETTER = {"score": True, "entropy": True, "kl_local": False, "kl_global": False}


def filled(values: Values) -> Values:
    """Between two measured steps, on the straight line."""
    known = np.flatnonzero(~np.isnan(values))
    if len(known) == 0:
        return values
    return np.interp(np.arange(len(values)), known, values[known], left=math.nan, right=math.nan)


def smoothed(values: Values, window: int) -> Values:
    """Centred moving mean over those of the neighbours that exist."""
    sums, counts = (np.convolve(one, np.ones(window)) for one in (values, np.ones(len(values))))
    return (sums / counts)[window // 2 :][: len(values)]


def pooled(along: Values, values: Values) -> tuple[Values, Values]:
    """Adjacent steps joined until the averages of `along` rise; both averaged over the joined steps."""
    blocks: list[tuple[float, float, int]] = []
    for x, y in zip(along, values, strict=True):
        blocks.append((x, y, 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (x2, y2, n2), (x1, y1, n1) = blocks.pop(), blocks.pop()
            blocks.append(((x1 * n1 + x2 * n2) / (n1 + n2), (y1 * n1 + y2 * n2) / (n1 + n2), n1 + n2))
    return np.array([x for x, _, _ in blocks]), np.array([y for _, y, _ in blocks])


class Trajectory:
    """One run, a metric along another."""

    def __init__(self, run: Columns, along: str, metric: str, window: int) -> None:
        x, y = filled(column(run, along)), filled(column(run, metric))
        known = ~np.isnan(x) & ~np.isnan(y)
        x, y = smoothed(x[known], window), smoothed(y[known], window)
        self.first, self.last = (x[0], x[-1]) if len(x) else (math.nan, math.nan)
        self.x, self.y = pooled(x, y)

    def at(self, levels: Values) -> Values:
        if len(self.x) == 0:
            return np.full(len(levels), math.nan)
        values = np.interp(levels, self.x, self.y)
        return np.where((self.first <= levels) & (levels <= self.last), values, math.nan)


def column(run: Columns, name: str) -> Values:
    return np.cumsum(run["kl_local"]) if name == "kl_spent" else run[name]


def common_levels(groups: Sequence[Sequence[Trajectory]], number: int) -> Values:
    """Evenly spaced over what all groups of runs reach, without the outer tenths."""
    low = max(min(run.first for run in group) for group in groups)
    high = min(max(run.last for run in group) for group in groups)
    if not low < high:
        return np.empty(0)
    return np.linspace(low + 0.1 * (high - low), high - 0.1 * (high - low), number)


class Swept(NamedTuple):
    """The runs of one method: `runs[seed][rate]`, rates rising."""

    runs: list[list[Columns]]

    def part(self, rates: slice) -> Swept:
        return Swept([of_seed[rates] for of_seed in self.runs])


class Frontier:
    """A method over its learning rates: at each level the first run, in order of preference, that reached it."""

    def __init__(self, method: Swept, along: str, metric: str, criteria: Criteria) -> None:
        self.paths = [[Trajectory(run, along, metric, criteria["smoothing"]) for run in runs] for runs in method.runs]
        self.order: list[int] = []
        better = functools.partial(
            self._is_better, sign=1 if HIGHER_IS_BETTER[metric] else -1, levels=criteria["levels"]
        )
        for rate in range(len(self.paths[0])):
            place = len(self.order)
            while place > 0 and better(rate, self.order[place - 1]):
                place -= 1
            self.order.insert(place, rate)

    def _is_better(self, one: int, other: int, *, sign: int, levels: int) -> bool:
        distances = []
        for paths in self.paths:
            at = common_levels([[paths[one]], [paths[other]]], levels)
            distances.append(np.mean(paths[one].at(at) - paths[other].at(at)) if len(at) else math.nan)
        values = np.array(distances)
        return p_value(values) < DOUBT and sign * interval(values, 0.95).centre > 0

    def at(self, seed: int, levels: Values) -> tuple[Values, Values]:
        values, rates = np.full(len(levels), math.nan), np.full(len(levels), -1)
        for rate in reversed(self.order):
            found = self.paths[seed][rate].at(levels)
            values, rates = np.where(np.isnan(found), values, found), np.where(np.isnan(found), rates, rate)
        return values, (rates == 0) | (rates == len(self.order) - 1)
