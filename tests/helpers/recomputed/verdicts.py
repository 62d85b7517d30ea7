"""One row: an estimate, and what is said of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recomputed.frontier import Criteria, Swept
from recomputed.measures import CLAIMS, Claim, Measure
from recomputed.runs import OURS, Runs
from recomputed.statistics import LEAST_PAIRS, SIGMAS, Interval, holm, interval, noise, p_value

NO_PLACEBO = "the placebo was not measured"
NOT_BEYOND = "no further from zero than the placebo"
Said = tuple[str, str]
"""A verdict and a reason."""
Bounds = tuple[float, float, float]
"""A p-value with the interval in which another simulation finds it."""


class Row(NamedTuple):
    """What a row should say.

    Attributes:
        found: the estimate, from which come its interval's ends.
        said: verdict and reason; several where the simulated quantile is too near to the border between them.
        p: with the interval in which a simulation may find it.
        placebo: None beside same settings.
        edges: of PROMA and of the baseline; None where nothing was chosen.
    """

    found: Interval
    said: set[Said]
    p: Bounds
    placebo: Interval | None = None
    edges: tuple[float, float] | None = None


def verdict(statement: str, found: Interval, criteria: Criteria, sigmas: float = 0.0) -> str:
    if found.n < max(criteria["min_pairs"], LEAST_PAIRS):
        return "inconclusive"
    low, high = found.end(-1, sigmas), found.end(+1, sigmas)
    if statement == "not lower":
        return "holds" if low >= -criteria["margin"] else "fails" if high < -criteria["margin"] else "inconclusive"
    if low <= 0 <= high:
        return "inconclusive"
    return "holds" if (high < 0) == (statement == "lower") else "fails"


def row(claim: Claim, protocol: str, ours: Swept, theirs: Swept, criteria: Criteria) -> Row:
    """Of several measures, the weakest."""
    measures = claim.same_settings if protocol == "same_settings" else (claim.frontier,)
    judged = functools.partial(_judged, claim, protocol, ours, theirs, criteria, len(measures))
    return min((judged(measure) for measure in measures), key=lambda one: _strength(claim.statement, one))


def _strength(statement: str, one: Row) -> tuple[int, float]:
    assert one.found.n, "a measure found nothing: add what the table says then"
    end = -one.found.end(+1) if statement == "lower" else one.found.end(-1)
    said = min(("fails", "inconclusive", "holds").index(said) for said, _ in one.said)
    return said, -math.inf if math.isnan(end) else end


def _judged(
    claim: Claim,
    protocol: str,
    ours: Swept,
    theirs: Swept,
    criteria: Criteria,
    parts: int,
    measure: Measure,
) -> Row:
    values, edges, choices = measure(ours, theirs, criteria)
    parts *= choices
    level = 1 - (1 - criteria["confidence"]) / parts
    found = interval(values, level)
    few = _too_few(found, criteria)
    if claim.statement == "not lower":
        tests, line = [values], -criteria["margin"]
    else:
        tests, line = [values], 0.0
    placebo = None
    if protocol == "frontier":
        lower, higher = (theirs.part(rates) for rates in claim.halves)
        own = measure(lower, higher, criteria).values
        placebo = interval(own, criteria["confidence"])
        if claim.statement != "not lower":
            if not placebo.n:
                nan = math.nan
                return Row(found, {("inconclusive", few or NO_PLACEBO)}, (nan, nan, nan), placebo, edges)
            tests += [values - own, values + own]
    p = max(p_value(test, line) for test in tests)
    said = {
        _said(claim.statement, [interval(test, level) for test in tests], criteria, few, s)
        for s in (-SIGMAS, 0, SIGMAS)
    }
    return Row(found, said, bounded(p, found.n, parts), placebo, edges)


def _said(statement: str, found: Sequence[Interval], criteria: Criteria, few: str, sigmas: float) -> Said:
    first, *beyond = (verdict(statement, one, criteria, sigmas) for one in found)
    if first != "inconclusive" and any(other != first for other in beyond):
        return "inconclusive", NOT_BEYOND
    return first, few


def _too_few(found: Interval, criteria: Criteria) -> str:
    needed = max(criteria["min_pairs"], LEAST_PAIRS)
    return f"not enough seeds ({found.n} of {needed})" if found.n < needed else ""


def bounded(p: float, n: int, parts: int = 1) -> Bounds:
    """A p-value of so many parts, with the interval in which another simulation finds it."""
    error = SIGMAS * float(noise(max(n, 1), p))
    return (*(min(max(parts * one, 0.0), 1.0) for one in (p, p - error, p + error)),)  # type: ignore[return-value]


def holm_bounds(found: Sequence[Bounds]) -> list[Bounds]:
    """Holm's adjustment of each p and of its bounds: none of them falls when a p rises."""
    return list(zip(*(holm(column) for column in zip(*found, strict=True)), strict=True))


def claim_row(runs: Runs, name: str, baseline: str, protocol: str) -> tuple[Row, dict[str, int]]:
    """The row, and how many pairs there are and are missing."""
    rates = [runs.criteria["learning_rate"]] if protocol == "same_settings" else runs.rates_of_claims()
    pair = (OURS, baseline)
    seeds = runs.seeds(pair, rates)
    ours, theirs = (runs.swept(method, rates, seeds) for method in pair)
    missing = len(runs.seeds(pair, rates, also_diverged=True)) - len(seeds)
    return row(CLAIMS[name], protocol, ours, theirs, runs.criteria), {"pairs": len(seeds), "diverged": missing}


def rounding(runs: Runs, name: str, baseline: str) -> float:
    """What five digits of the stored metrics can change in a mean of them: half a unit of the fifth digit."""
    metric = "score" if name.startswith("score") else name
    columns = [run[metric] for m in (OURS, baseline) for seeds in runs.ended[m].values() for run in seeds.values()]
    return 5e-5 * float(np.nanmean(np.abs(np.concatenate(columns))))
