"""Means over seeds and how sure they are; and which runs are compared with which."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from proma_bench.errors import UsageError
from proma_bench.learning.methods import all_methods
from proma_bench.runs.directory import Run

CONFIDENCE = 0.95
LEAST_SEEDS = 5
"""With fewer there is no interval: it would say how far apart the seeds are, and not how sure their mean is."""

Array = NDArray[np.floating[Any]]


class Interval(NamedTuple):
    """A mean over seeds with its interval; all three have the shape of one seed's value."""

    mean: Array
    low: Array
    high: Array


def interval(values: Array) -> Interval:
    """The mean over the first axis (seeds) and Student's t-interval, which is NaN with fewer than five seeds.

    Both are NaN where a seed has no value. (A percentile bootstrap is too narrow: the one at 95 % contains the mean in
    77, 85 or 90 % of cases, with three, five or ten seeds.)
    """
    n = len(values)
    mean = values.mean(axis=0)
    if n < LEAST_SEEDS:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number: those below 0.05 have one false verdict among them in at most 5 % of tables.

    (Holm, "A simple sequentially rejective multiple test procedure", 1979.)
    """
    order = np.argsort(p_values, kind="stable")
    left = np.arange(len(order), 0, -1)  # hypotheses that are not rejected yet
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(left * np.asarray(p_values)[order]))
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class Cell:
    """The seeds of one method at one learning rate on one tier.

    Attributes:
        runs: those that figures are about; none if all diverged.
        diverged: those that diverged, which no figure contains.
    """

    title: str
    method: str
    learning_rate: float
    runs: Sequence[Run]
    diverged: Sequence[Run] = ()

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Cell:
        """The cell of runs that have all ended, with the first one's settings."""
        title, method, learning_rate = _setting(runs[0])
        finished, diverged = ([run for run in runs if run.finished == ended] for ended in (True, False))
        return cls(title, method, learning_rate, finished, diverged)

    @property
    def seeds(self) -> str:
        """The number of seeds behind the figures, and of those that diverged."""
        return f"n {len(self.runs)}" + (f", {len(self.diverged)} diverged" if self.diverged else "")

    def series(self, metric: str) -> Array:
        """``[seeds, steps]``, cut to the shortest run; NaN where a metric was not measured."""
        steps = min((len(run.metrics) for run in self.runs), default=0)
        values = [[step.get(metric) for step in run.metrics[:steps]] for run in self.runs]
        return np.array(values, dtype=float).reshape(len(self.runs), steps)


def cells(runs: Sequence[Run]) -> list[Cell]:
    """The runs by tier, method and learning rate. Unfinished runs are left out where other seeds have ended.

    Raises:
        UsageError: no run has recorded a step.
    """
    started = sorted((run for run in runs if run.metrics or run.diverged), key=_order)
    if not started:
        raise UsageError("none of the runs has recorded a step yet")
    found = []
    for (title, method, learning_rate), members in itertools.groupby(started, key=_setting):
        seeds = list(members)
        finished = [run for run in seeds if run.finished]
        diverged = [run for run in seeds if run.diverged is not None]
        found.append(Cell(title, method, learning_rate, finished or ([] if diverged else seeds), diverged))
    return found


def at_rate(found: Sequence[Cell], learning_rate: float | None) -> list[Cell]:
    """The cells with this learning rate, or all of them for None."""
    return [cell for cell in found if learning_rate is None or cell.learning_rate == learning_rate]


def _setting(run: Run) -> tuple[str, str, float]:
    return run.config["title"], run.config["method"], run.config["learning_rate"]


def _order(run: Run) -> tuple[Any, ...]:
    title, method, learning_rate = _setting(run)
    return title, method_order(method), learning_rate, run.config["seed"]


def method_order(method: str) -> tuple[int, str]:
    """The method's place in tables and legends: that of its registration, then others by name."""
    known = list(all_methods())
    return (known.index(method) if method in known else len(known)), method
