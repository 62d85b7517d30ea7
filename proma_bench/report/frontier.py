"""Runs compared at equal score instead of at equal step, or at equal change of the policy.

A method that learns slower has lower KL for free. So each run is read off *along* another metric: its score, or the KL
that it has spent. No part of this takes the best of noisy values, as that would reward noise:

1. Steps between two validations get a score on the straight line between theirs. Both metrics are smoothed by a
   centred moving mean over ``criteria.smoothing`` optimizer steps (fewer at the ends).
2. The metric along which one reads is made to rise by isotonic regression: neighbouring steps are joined and averaged
   until the averages rise. The other metric is averaged over the same steps. So everything that a run went through
   counts: a plateau with its whole length, and a collapse together with what was reached before.
3. A run has reached what lies between its first smoothed value and its last one: what it lost again does not count.
4. The values are read at ``criteria.levels`` levels over the range that both methods reach, without its outer
   tenths: where the range ends is a matter of noise.

Of a method that ran with several learning rates, the *frontier* is at each level the run with the lowest rate that
reached it; a higher rate goes before a lower one if the seeds say beyond doubt that it is better at equal levels. (Were
it the best of their values, four times the noise would make a method look better.) All have the same number of steps,
so a slow run is on the frontier only for what it reaches in time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from proma_bench.learning.metrics import METRICS
from proma_bench.report.curves import Curves, between_measurements, moving_mean
from proma_bench.report.paired import p_value
from proma_bench.report.statistics import Array
from proma_bench.runs.criteria import Criteria

OUTER = 0.1
"""Share of the common range, at either end, in which nothing is read."""
DOUBT = 0.01
"""Above this p-value it is not beyond doubt that one learning rate is better than another."""


class Trajectory:
    """One run, a metric along another. Steps where one of them is not known are left out.

    Attributes:
        lowest: where it began, of the metric along which one reads; NaN when nothing was measured.
        highest: where it ended.
    """

    def __init__(self, along: Array, values: Array, smoothing: int) -> None:
        along, values = between_measurements(along), between_measurements(values)
        measured = ~(np.isnan(along) | np.isnan(values))
        along, values = (moving_mean(metric[measured], smoothing) for metric in (along, values))
        self.lowest, self.highest = map(float, along[[0, -1]] if len(along) else (np.nan, np.nan))
        rising = isotonic_regression(along).x if len(along) else along
        starts = np.flatnonzero(np.diff(rising, prepend=-np.inf) > 0)
        joined = np.diff(starts, append=len(rising))
        self._reached = rising[starts]
        self._values = np.add.reduceat(values, starts) / joined if len(starts) else values

    def at(self, levels: Array) -> Array:
        """The other metric at each of the levels; NaN where a level was not reached."""
        if not len(self._reached):
            return np.full(levels.shape, np.nan)
        found = np.interp(levels, self._reached, self._values)
        return np.where((levels >= self.lowest) & (levels <= self.highest), found, np.nan)


class Frontier:
    """The runs of one method and seed along a metric, one per learning rate.

    Args:
        runs: in rising order of their rates.
        order: their places, in the order in which they are asked for a level.
    """

    def __init__(self, runs: Sequence[Trajectory], order: Sequence[int]) -> None:
        self._runs, self._order = runs, np.array(order)
        self.lowest = float(np.fmin.reduce([run.lowest for run in runs]))
        self.highest = float(np.fmax.reduce([run.highest for run in runs]))

    def at(self, levels: Array) -> tuple[Array, NDArray[np.bool_]]:
        """The value at each level, NaN where no run reached it; and whether the run is at an edge of the sweep."""
        values = np.stack([self._runs[place].at(levels) for place in self._order])
        first = np.argmax(~np.isnan(values), axis=0)
        chosen = self._order[first]
        return np.take_along_axis(values, first[None], axis=0)[0], (chosen == 0) | (chosen == len(values) - 1)


def frontiers(curves: Curves, along: str, metric: str, criteria: Criteria) -> list[Frontier]:
    """The frontier of each seed."""
    runs = [
        [Trajectory(*run, criteria.smoothing) for run in zip(*seed, strict=True)]
        for seed in zip(curves[along], curves[metric], strict=True)
    ]
    order: list[int] = []
    for rate in range(len(runs[0])):
        place = len(order)
        while place and _is_better([(seed[rate], seed[order[place - 1]]) for seed in runs], metric, criteria):
            place -= 1
        order.insert(place, rate)
    return [Frontier(seed, order) for seed in runs]


def _is_better(pairs: Sequence[tuple[Trajectory, Trajectory]], metric: str, criteria: Criteria) -> bool:
    """Whether the first of each pair of runs has the better values at equal levels, beyond doubt."""
    values = [_difference([Frontier([run], [0]) for run in pair], criteria)[0] for pair in pairs]
    better = np.nansum(values) > 0 if METRICS[metric].higher_is_better else np.nansum(values) < 0
    return bool(better) and p_value(values) < DOUBT


def common_levels(frontiers: Sequence[Frontier], levels: int) -> Array:
    """Levels [levels], evenly spaced over what all frontiers reach; empty where there is no such range."""
    low = max(frontier.lowest for frontier in frontiers)
    high = min(frontier.highest for frontier in frontiers)
    outer = OUTER * (high - low)
    return np.linspace(low + outer, high - outer, levels) if low < high else np.empty(0)


class Difference(NamedTuple):
    """One method minus another, seed by seed.

    Attributes:
        values: averaged over the levels that both reach [seeds]; NaN where there are none.
        edges: of each method, the share of values that are at an edge of the sweep; None where nothing was compared.
    """

    values: Array
    edges: tuple[float, float] | None


def differences(ours: Curves, theirs: Curves, along: str, metric: str, criteria: Criteria) -> Difference:
    """The metric of ``ours`` minus that of ``theirs`` at equal levels of ``along``."""
    of_methods = [frontiers(curves, along, metric, criteria) for curves in (ours, theirs)]
    values, my_edges, other_edges = zip(
        *(_difference(pair, criteria) for pair in zip(*of_methods, strict=True)), strict=True
    )
    edges = [np.concatenate(of_method) for of_method in (my_edges, other_edges)]
    return Difference(np.array(values), (float(edges[0].mean()), float(edges[1].mean())) if len(edges[0]) else None)


def _difference(pair: Sequence[Frontier], criteria: Criteria) -> tuple[float, NDArray[np.bool_], NDArray[np.bool_]]:
    """Of one seed: the first minus the second, averaged over levels; and which values of each are at an edge."""
    levels = common_levels(pair, criteria.levels)
    (mine, my_edges), (other, other_edges) = (frontier.at(levels) for frontier in pair)
    both = ~np.isnan(mine - other)
    value = float((mine[both] - other[both]).mean()) if both.any() else math.nan
    return value, my_edges[both], other_edges[both]
