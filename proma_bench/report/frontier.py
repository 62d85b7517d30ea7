"""Runs compared at equal score instead of at equal step.

A method that learns slower has lower KL for free. So each run is read off *along its score*:

1. Score (``criteria.score``) and metric are smoothed by a centred moving mean over ``criteria.smoothing`` measured
   steps (fewer at the ends).
2. The *envelope* is the running maximum of the smoothed score: the best that the run has reached so far.
3. A score is reached at the first point, between two steps linearly interpolated, where the envelope is there; the
   smoothed metric is interpolated at that point.

Of a method that ran with several learning rates, the *frontier* is the best value (lowest KL, highest entropy) with
which any of its runs reached a score. All have the same number of steps, so a slow run is on the
frontier only for the scores that it reaches in time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from proma_bench.learning.metrics import METRICS
from proma_bench.report.statistics import Array
from proma_bench.runs.criteria import Criteria
from proma_bench.runs.directory import Run


class Trajectory:
    """One run along its score. Steps without a measured score are left out.

    Attributes:
        lowest: the lowest score that it passed through; NaN when no score was measured.
        highest: the highest one.
    """

    def __init__(self, run: Run, smoothing: int, score: str = "score") -> None:
        self._run, self._smoothing = run, smoothing
        scores = series(run, score)
        self._measured = ~np.isnan(scores)
        self._envelope = np.maximum.accumulate(moving_mean(scores[self._measured], smoothing))
        ends = (self._envelope[0], self._envelope[-1]) if len(self._envelope) else (np.nan, np.nan)
        self.lowest, self.highest = map(float, ends)

    def at(self, metric: str, scores: Array) -> Array:
        """The metric where each of the scores [L] was first reached; NaN where a score is out of the run's range."""
        envelope = self._envelope
        if not len(envelope):
            return np.full(scores.shape, np.nan)
        after = np.searchsorted(envelope, scores, side="left").clip(0, len(envelope) - 1)
        before = (after - 1).clip(0)
        rise = envelope[after] - envelope[before]
        share = np.divide(scores - envelope[before], rise, out=np.zeros_like(scores), where=rise > 0)
        values = moving_mean(series(self._run, metric)[self._measured], self._smoothing)
        found = values[before] + share * (values[after] - values[before])
        return np.where((scores >= self.lowest) & (scores <= self.highest), found, np.nan)


class Frontier:
    """The runs of one method and seed, one per learning rate, along their scores."""

    def __init__(self, runs: Sequence[Run], smoothing: int, score: str = "score") -> None:
        self.trajectories = [Trajectory(run, smoothing, score) for run in runs]

    @property
    def lowest(self) -> float:
        return float(np.fmin.reduce([trajectory.lowest for trajectory in self.trajectories]))

    @property
    def highest(self) -> float:
        return float(np.fmax.reduce([trajectory.highest for trajectory in self.trajectories]))

    def at(self, metric: str, scores: Array) -> Array:
        """The best value of the metric with which any run reached each of the scores [L]; NaN where none did."""
        values = np.stack([trajectory.at(metric, scores) for trajectory in self.trajectories])
        return np.fmax.reduce(values) if METRICS[metric].higher_is_better else np.fmin.reduce(values)


def common_scores(frontiers: Sequence[Frontier], levels: int) -> Array:
    """Scores [levels], evenly spaced over the range that all the frontiers reach; empty where there is none."""
    low = max(frontier.lowest for frontier in frontiers)
    high = min(frontier.highest for frontier in frontiers)
    return np.linspace(low, high, levels) if low < high else np.empty(0)


def difference_at_equal_score(ours: Sequence[Run], theirs: Sequence[Run], metric: str, criteria: Criteria) -> float:
    """The metric of ``ours`` minus that of ``theirs``, averaged over the scores that both frontiers reach.

    Both are the runs of one method and seed. NaN when they have no range of scores in common.
    """
    frontiers = [Frontier(runs, criteria.smoothing, criteria.score) for runs in (ours, theirs)]
    scores = common_scores(frontiers, criteria.levels)
    mine, other = (frontier.at(metric, scores) for frontier in frontiers)
    return float(np.mean(mine - other)) if len(scores) else float("nan")


def series(run: Run, metric: str) -> Array:
    """The metric at every step of a run; NaN where it was not measured."""
    return np.array([step.get(metric) for step in run.metrics], dtype=float)


def moving_mean(values: Array, window: int) -> Array:
    """The mean over ``window`` neighbours centred on each value; at the ends, over those of them that exist."""
    if not len(values):
        return values
    window = min(window, 2 * len(values))  # wider ones cover the same
    sums, counts = (np.convolve(terms, np.ones(window)) for terms in (values, np.ones_like(values)))
    start = (window - 1) // 2
    return (sums / counts)[start : start + len(values)]
