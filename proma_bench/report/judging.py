"""Judges the claims by paired differences over seeds, under criteria that were fixed before the runs."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proma_bench.errors import UsageError
from proma_bench.report.claims import CLAIMS, Claim
from proma_bench.report.curves import Curves, curves_of
from proma_bench.report.paired import Comparable, Estimate, comparable
from proma_bench.report.statistics import holm
from proma_bench.report.verdicts import Protocol, Verdict, judge, judge_curves
from proma_bench.runs.criteria import Criteria, from_json
from proma_bench.runs.directory import Run, write_json

__all__ = ["ClaimResult", "TierClaims", "evaluate", "judge", "write_claims"]


@dataclass(frozen=True)
class ClaimResult:
    """What came out for one claim against one baseline: a row of ``claims.json``; None where there is no number."""

    tier: str
    task: str | None
    claim: str
    baseline: str
    protocol: Protocol
    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    verdict: Verdict
    diverged: int = 0
    """Pairs that are missing because one of their runs, or both, diverged."""
    pairs: int = 0
    """Pairs of finished runs, of which ``n`` have a value."""
    p: float | None = None
    """The level at which the verdict would just be given."""
    p_holm: float | None = None
    """The same, adjusted for the number of verdicts in the table."""
    placebo: float | None = None
    """On the frontier: the baseline with the lower half of the rates minus the baseline with the higher half."""
    placebo_low: float | None = None
    placebo_high: float | None = None
    edge: float | None = None
    """On the frontier: the share of PROMA's values that are of the lowest or the highest learning rate."""
    edge_baseline: float | None = None
    """The same of the baseline."""
    why: str = ""
    """Why there is no verdict, where that is not a matter of the interval; and what was not measured."""


@dataclass(frozen=True)
class TierClaims:
    """All results on one tier, how they were judged, and what to know when reading them.

    Attributes:
        rate: the learning rate of the same-settings protocol.
        rates: those of the frontier; None and empty without pairs.
    """

    comparable: Comparable
    criteria: Criteria
    rate: float | None
    rates: list[float]
    results: list[ClaimResult]
    notes: list[str]


def evaluate(runs: Sequence[Run]) -> list[TierClaims]:
    """Judge all claims on every tier that the runs belong to."""
    return _adjusted([_evaluate(found) for found in comparable(runs)])


def _adjusted(tiers: Sequence[TierClaims]) -> list[TierClaims]:
    """The same with p-values adjusted for their number, over all tiers: one table is one family of tests."""
    judged = [result.p for tier in tiers for result in tier.results if result.p is not None]
    adjusted = iter(holm(judged))
    return [
        dataclasses.replace(
            tier,
            results=[
                result if result.p is None else dataclasses.replace(result, p_holm=next(adjusted))
                for result in tier.results
            ],
        )
        for tier in tiers
    ]


def _evaluate(found: Comparable) -> TierClaims:
    if found.is_smoke_run:
        note = (
            f"{found.title}: a smoke run with random weights, which shows that the code runs; no claim is judged on it"
        )
        return TierClaims(found, Criteria(), None, [], [], [*found.notes, note])
    criteria, notes = _criteria_of(found)
    rate, rates = _learning_rates(found, criteria)
    curves = functools.cache(
        lambda method, rates, seeds: curves_of([found.select(method, rates, seed) for seed in seeds])
    )
    results = []
    for claim in CLAIMS.values():
        for baseline in claim.baselines:
            if claim.same_settings:
                results.append(_result(found, claim, baseline, () if rate is None else (rate,), curves, criteria))
            if claim.frontier and len(rates) > 1:
                results.append(_result(found, claim, baseline, tuple(rates), curves, criteria))
    if rate is None:
        notes.append(f"{found.title}: no run of PROMA and of a baseline with the same learning rate and seed")
    elif len(rates) < 2:
        notes.append(f"{found.title}: a single learning rate ({rate:g}), hence no frontier")
    return TierClaims(found, criteria, rate, rates, results, [*found.notes, *notes])


def _result(
    found: Comparable,
    claim: Claim,
    baseline: str,
    rates: tuple[float, ...],
    curves: Callable[[str, tuple[float, ...], tuple[int, ...]], Curves],
    criteria: Criteria,
) -> ClaimResult:
    """Several learning rates make it the frontier protocol; a seed counts when it ran with all of them."""
    protocol: Protocol = "frontier" if len(rates) > 1 else "same_settings"
    seeds = found.rates("proma", baseline)
    complete = tuple(sorted(set.intersection(*(set(seeds.get(rate, [])) for rate in rates)))) if rates else ()
    diverged = len(found.diverged_seeds("proma", baseline, rates)) if rates else 0
    result = ClaimResult(
        found.tier, found.task, claim.name, baseline, protocol, None, None, None, 0, "inconclusive", diverged,
        len(complete), why="no pairs",
    )  # fmt: skip
    if not complete:
        return result
    ours, theirs = (curves(method, rates, complete) for method in ("proma", baseline))
    judged = judge_curves(claim, protocol, ours, theirs, criteria)
    placebo = judged.placebo or Estimate(math.nan, math.nan, math.nan, 0)
    edge, edge_baseline = judged.edges or (None, None)
    return dataclasses.replace(
        result,
        estimate=_number(judged.found.estimate),
        ci_low=_number(judged.found.low),
        ci_high=_number(judged.found.high),
        n=judged.found.n,
        verdict=judged.verdict,
        p=_number(judged.p),
        placebo=_number(placebo.estimate),
        placebo_low=_number(placebo.low),
        placebo_high=_number(placebo.high),
        edge=edge,
        edge_baseline=edge_baseline,
        why=judged.why,
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _learning_rates(found: Comparable, criteria: Criteria) -> tuple[float | None, list[float]]:
    """The same-settings rate and the sweep.

    The former is that of the criteria, or, where nothing ended with that, the one with the most pairs: that its runs
    diverged is no reason to judge by another. The sweep is every rate that has at least half as many pairs as the one
    with the most: a stray run with another rate must not cost all pairs.
    """
    pairs: dict[float, int] = {}
    for baseline in dict.fromkeys(baseline for claim in CLAIMS.values() for baseline in claim.baselines):
        finished = found.rates("proma", baseline)
        for rate in found.ended_rates("proma", baseline):
            pairs[rate] = pairs.get(rate, 0) + len(finished.get(rate, []))
    if not pairs:
        return None, []
    most = max(sorted(pairs), key=pairs.__getitem__)
    sweep = sorted(rate for rate, count in pairs.items() if 2 * count >= pairs[most])
    return criteria.learning_rate if criteria.learning_rate in pairs else most, sweep


def _criteria_of(found: Comparable) -> tuple[Criteria, list[str]]:
    """The criteria that the runs have in their config, and what to say when these are not the same in all."""
    stored = [run.config.get("criteria") for run in found.runs.values()]
    recorded = [one for one in stored if one is not None]
    if not recorded:
        return Criteria(), [
            f"{found.title}: no criteria were fixed in the runs' config; judged by this version's"
        ] * bool(stored)
    try:
        distinct = {from_json(one) for one in recorded}
    except UsageError as error:
        return Criteria(), [f"{found.title}: {error}; judged by this version's criteria"]
    if len(distinct) > 1 or len(recorded) < len(stored):
        strictest = max(distinct, key=lambda one: one.min_pairs)
        return strictest, [f"{found.title}: the runs were made under different criteria"]
    return distinct.pop(), []


# ---------------------------------------------------------------------------------------------------- writing


def write_claims(tiers: Sequence[TierClaims], path: Path) -> Path:
    """Write ``claims.json``: a list of results."""
    rows: list[dict[str, Any]] = [asdict(result) for tier in tiers for result in tier.results]
    write_json(path, rows)
    return path
