"""One row: from the curves of paired runs to an estimate with its interval, and to a verdict.

A verdict follows from the confidence interval of PROMA minus the baseline:

    statement    holds                     fails                     inconclusive
    lower        interval below 0          interval above 0          0 inside
    higher       interval above 0          interval below 0          0 inside
    not lower    low end at or above -m    high end below -m         -m inside        (m: the criteria's margin)

With fewer pairs than the criteria ask for, every verdict is inconclusive.

On the frontier there is a *placebo* beside it: the baseline with the lower half of the sweep's learning rates, minus
the baseline with the higher half (or every other rate, against the rest). No difference of methods is in it. "Lower"
and "higher" are said only of what is further from zero than the placebo, on either side; without one, of nothing.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from proma_bench.report.claims import Claim, Measure, Statement
from proma_bench.report.curves import Curves, at_rates
from proma_bench.report.paired import Estimate, estimate, p_value
from proma_bench.report.statistics import LEAST_SEEDS
from proma_bench.runs.criteria import Criteria

Verdict = Literal["holds", "fails", "inconclusive"]
Protocol = Literal["same_settings", "frontier"]


class Judgement(NamedTuple):
    """What came out for one claim against one baseline.

    Attributes:
        found: the estimate; of several parts, that of the one that decides.
        verdict: what follows.
        p: the level at which the verdict would just be given; NaN where there is none.
        placebo: the estimate for the baseline against itself at other learning rates; None beside same settings.
        edges: of PROMA and the baseline, the share of values at an edge of the sweep; None where nothing was chosen.
        why: why it is inconclusive, where that is not a matter of the interval; and what was not measured.
    """

    found: Estimate
    verdict: Verdict
    p: float
    placebo: Estimate | None
    edges: tuple[float, float] | None
    why: str


class _Part(NamedTuple):
    """What one measure of a claim says."""

    measure: Measure
    found: Estimate
    verdict: Verdict
    p: float
    placebo: Estimate | None
    edges: tuple[float, float] | None
    why: str


def judge(statement: Statement, found: Estimate, criteria: Criteria) -> Verdict:
    """The verdict that an interval gives (see the table at the top of this file)."""
    if found.n < criteria.min_pairs or math.isnan(found.low):
        return "inconclusive"
    if statement == "not lower":
        holds, fails = found.low >= -criteria.margin, found.high < -criteria.margin
    else:
        below, above = found.high < 0, found.low > 0
        holds, fails = (below, above) if statement == "lower" else (above, below)
    return "holds" if holds else "fails" if fails else "inconclusive"


def judge_curves(claim: Claim, protocol: Protocol, ours: Curves, theirs: Curves, criteria: Criteria) -> Judgement:
    """Judge a claim by the curves of PROMA and of a baseline, seed by seed the same.

    Each of several parts must hold, and one that fails decides. The row shows the part that decides: the weakest. Their
    intervals are wider, so that together they are wrong no more often than a single one.
    """
    measures = claim.frontier if protocol == "frontier" else claim.same_settings
    parts = [_judged(claim.statement, measure, protocol, ours, theirs, criteria, len(measures)) for measure in measures]
    measured = [part for part in parts if part.found.n]
    shown = min(measured or parts, key=lambda part: _strength(claim.statement, part))
    missing = [part.measure.where for part in parts if not part.found.n]
    why = [shown.why] if shown.why and measured else []
    why += [f"not measured {where}" for where in missing]
    verdict = "inconclusive" if missing and shown.verdict == "holds" else shown.verdict
    return Judgement(shown.found, verdict, shown.p, shown.placebo, shown.edges, "; ".join(why))


def _judged(
    statement: Statement,
    measure: Measure,
    protocol: Protocol,
    ours: Curves,
    theirs: Curves,
    criteria: Criteria,
    parts: int,
) -> _Part:
    values, edges, choices = measure.compare(ours, theirs, criteria)
    parts *= choices
    found = estimate(values, criteria, parts)
    line = -criteria.margin if statement == "not lower" else 0.0
    verdict, p = judge(statement, found, criteria), min(parts * p_value(values, line), 1.0)
    why = too_few(found.n, criteria)
    if protocol == "same_settings":
        return _Part(measure, found, verdict, p, None, edges, why)
    lower, higher = halves(theirs, measure)
    own = measure.compare(lower, higher, criteria).values
    placebo = estimate(own, criteria)
    if statement != "not lower" and not placebo.n:
        return _Part(measure, found, "inconclusive", math.nan, placebo, edges, why or "the placebo was not measured")
    if statement != "not lower":
        beyond = (values - own, values + own)
        p = max(p, *(min(parts * p_value(one), 1.0) for one in beyond))
        if verdict != "inconclusive" and {
            judge(statement, estimate(one, criteria, parts), criteria) for one in beyond
        } != {verdict}:
            why, verdict = "no further from zero than the placebo", "inconclusive"
    return _Part(measure, found, verdict, p, placebo, edges, why)


def halves(baseline: Curves, measure: Measure) -> tuple[Curves, Curves]:
    """The two parts of a sweep whose difference is the placebo."""
    rates = next(iter(baseline.values())).shape[1]  # [seeds, rates, steps]
    first, second = measure.halves(rates)
    return at_rates(baseline, first), at_rates(baseline, second)


def too_few(n: int, criteria: Criteria) -> str:
    """The words for too few pairs; empty if they are enough."""
    needed = max(criteria.min_pairs, LEAST_SEEDS)
    return f"not enough seeds ({n} of {needed})" if n < needed else ""


def _strength(statement: Statement, part: _Part) -> tuple[int, float]:
    """Orders the parts of a claim: first by verdict, then by how far the interval is on the claim's side."""
    edge = -part.found.high if statement == "lower" else part.found.low
    return ("fails", "inconclusive", "holds").index(part.verdict), -math.inf if math.isnan(edge) else edge
