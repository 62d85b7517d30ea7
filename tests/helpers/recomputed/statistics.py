"""Estimates, their intervals, p-values."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Values = np.ndarray

DRAWS = 500_000
"""Samples behind a quantile or a p-value here."""
SIGMAS = 4.0
"""How far two simulations may be apart, in standard errors of their difference."""
LEAST_PAIRS = 5


def interquartile_mean(values: Values) -> Values:
    """Of the last axis; a quarter of ten is two."""
    cut = values.shape[-1] // 4
    ordered = np.sort(values, axis=-1)
    return ordered[..., cut : values.shape[-1] - cut].mean(axis=-1)


def standard_error(values: Values) -> Values:
    """The larger one of Tukey and McLaughlin's, from the winsorised variance, and the ordinary mean's."""
    n = values.shape[-1]
    cut = n // 4
    winsorised = np.sort(values, axis=-1)
    winsorised[..., :cut] = winsorised[..., cut, None]
    winsorised[..., n - cut :] = winsorised[..., n - cut - 1, None]
    trimmed = winsorised.std(axis=-1, ddof=1) / ((n - 2 * cut) / n * math.sqrt(n))
    return np.maximum(trimmed, values.std(axis=-1, ddof=1) / math.sqrt(n))


@functools.cache
def null_sizes(n: int) -> Values:
    """|interquartile mean| / standard error of uniform samples around zero, in rising order."""
    samples = np.random.default_rng([7919, n]).uniform(-1, 1, size=(DRAWS, n))
    return np.sort(np.abs(interquartile_mean(samples)) / standard_error(samples))


def noise(n: int, share: Values | float) -> Values | float:
    """The standard error of the difference of two simulated shares: the published one has a million numbers."""
    share = np.clip(share, 3e-5, 1 - 3e-5)  # a count of none is no proof that there are none
    return np.sqrt(share * (1 - share) * (1 / DRAWS + n / 1_000_000))


def factor(n: int, level: float, sigmas: float = 0.0) -> float:
    """The quantile of the null distribution at a level such as 0.95, or as far beside it as the simulation may err."""
    return float(np.quantile(null_sizes(n), min(level + sigmas * noise(n, level), 1.0)))


def p_value(differences: Values, line: float = 0.0) -> float:
    """Two-sided, against a difference of `line`; NaN for fewer than five pairs."""
    measured = differences[~np.isnan(differences)]
    if len(measured) < LEAST_PAIRS:
        return math.nan
    distance, error = abs(interquartile_mean(measured) - line), standard_error(measured)
    if distance == 0:
        return 1.0
    as_far = DRAWS - np.searchsorted(null_sizes(len(measured)), distance / error) if error else 0
    return float((as_far + 1) / (DRAWS + 1))


class Interval(NamedTuple):
    """An interquartile mean, its standard error, the number of pairs, and the level of the interval."""

    centre: float
    error: float
    n: int
    level: float

    def end(self, side: int, sigmas: float = 0.0) -> float:
        """The lower (-1) or upper (+1) end; NaN for fewer than five pairs."""
        if self.n < LEAST_PAIRS:
            return math.nan
        return self.centre + side * self.error * factor(self.n, self.level, sigmas)


def interval(differences: Values, level: float) -> Interval:
    measured = differences[~np.isnan(differences)]
    if len(measured) < 2:
        return Interval(float(measured[0]) if len(measured) else math.nan, math.nan, len(measured), level)
    return Interval(float(interquartile_mean(measured)), float(standard_error(measured)), len(measured), level)


def holm(p_values: Sequence[float]) -> list[float]:
    """The smallest p times their number, the next times one less, and so on; never falling, never above one."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, (len(p_values) - rank) * p_values[place])
        adjusted[place] = min(largest, 1.0)
    return adjusted
