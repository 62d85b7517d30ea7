"""What runs recorded as arrays: seed by learning rate by optimizer step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from proma_bench.learning.metrics import METRICS
from proma_bench.report.statistics import Array
from proma_bench.runs.directory import Run

Curves = Mapping[str, Array]
"""One method's metrics by name, each ``[seeds, rates, steps]``; NaN where one was not measured."""

KL_SPENT = "kl_spent"
"""The local KL of all optimizer steps so far, added up: how much change of the policy was spent."""


def curves_of(runs: Sequence[Sequence[Run]]) -> Curves:
    """The curves of a method's runs: for each seed one run per learning rate, all of the same length."""
    names = [name for name, metric in METRICS.items() if not metric.by_layer]
    recorded = {name: np.array([[series(run, name) for run in rates] for rates in runs]) for name in names}
    return {**recorded, KL_SPENT: np.cumsum(recorded["kl_local"], axis=-1)}


def series(run: Run, metric: str) -> Array:
    """The metric at every step of a run; NaN where it was not measured."""
    return np.array([step.get(metric) for step in run.metrics], dtype=float)


def at_rates(curves: Curves, rates: slice) -> Curves:
    """The curves at some learning rates only, by their places."""
    return {name: values[:, rates] for name, values in curves.items()}


def last_measured(values: Array) -> Array:
    """The last value along the last axis that was measured; NaN where none was."""
    measured = ~np.isnan(values)
    last = values.shape[-1] - 1 - np.argmax(measured[..., ::-1], axis=-1)
    return np.asarray(np.take_along_axis(values, last[..., None], axis=-1)[..., 0])


def between_measurements(values: Array) -> Array:
    """Steps between two measured ones get a value on the straight line between them; the last axis is steps."""
    if not np.isnan(values).any():
        return values
    filled = np.full_like(values, np.nan)
    steps = np.arange(values.shape[-1])
    for place in np.ndindex(values.shape[:-1]):
        known = np.flatnonzero(~np.isnan(values[place]))
        if len(known):
            filled[place] = np.interp(steps, known, values[place][known], left=np.nan, right=np.nan)
    return filled


def moving_mean(values: Array, window: int) -> Array:
    """The mean over ``window`` neighbours centred on each value; at the ends, over those of them that exist.

    Along the last axis, which is that of optimizer steps.
    """
    steps = values.shape[-1]
    start = np.arange(steps) - window // 2
    first, last = start.clip(0), (start + window).clip(max=steps)
    total = np.zeros(values.shape)
    for offset in range(
        window
    ):  # no differences of cumulative sums, whose rounding would hide that a level was reached
        place = start + offset
        total += np.where((place >= 0) & (place < steps), values[..., place.clip(0, max(0, steps - 1))], 0.0)
    return np.asarray(total / (last - first))
