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
RESAMPLES = 2000

Array = NDArray[np.floating[Any]]


class Interval(NamedTuple):
    """A mean over seeds with its interval; all three have the shape of one seed's value."""

    mean: Array
    low: Array
    high: Array


def interval(values: Array) -> Interval:
    """The mean over the first axis (seeds) and its bootstrap interval, which is NaN for a single seed.

    Both are NaN where a seed has no value.

    The resampling has a seed of its own, so that one directory always gives the same report.
    """
    mean = values.mean(axis=0)
    if len(values) < 2:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    measured = np.where(np.isnan(mean), 0.0, values)
    result = stats.bootstrap(
        (measured,), np.mean, axis=0, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="percentile",
        rng=np.random.default_rng(0),
    )  # fmt: skip
    low, high = (np.where(np.isnan(mean), np.nan, end) for end in result.confidence_interval)
    return Interval(mean, low, high)


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
    known = list(all_methods())
    return title, (known.index(method) if method in known else len(known)), method, learning_rate, run.config["seed"]
