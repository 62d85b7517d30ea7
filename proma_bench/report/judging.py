"""Judges the claims by paired differences over seeds, under criteria that were fixed before the runs.

A verdict follows from the confidence interval of PROMA minus the baseline, and from nothing else:

    statement    holds                     fails                     inconclusive
    lower        interval below 0          interval above 0          0 inside
    higher       interval above 0          interval below 0          0 inside
    not lower    low end at or above -m    high end below -m         -m inside        (m: the criteria's margin)

With fewer pairs than the criteria ask for, every verdict is inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from proma_bench.errors import UsageError
from proma_bench.report.claims import CLAIMS, Claim, Statement
from proma_bench.report.paired import Comparable, Estimate, comparable, estimate
from proma_bench.runs.criteria import Criteria, from_json
from proma_bench.runs.directory import Run, write_json

Verdict = Literal["holds", "fails", "inconclusive"]
Protocol = Literal["same_settings", "frontier"]


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


def evaluate(runs: Sequence[Run]) -> list[TierClaims]:
    """Judge all claims on every tier that the runs belong to."""
    return [_evaluate(found) for found in comparable(runs)]


def _evaluate(found: Comparable) -> TierClaims:
    if all(run.config.get("criteria", 0) is None for run in found.members):
        note = (
            f"{found.title}: a smoke run with random weights, which shows that the code runs; no claim is judged on it"
        )
        return TierClaims(found, Criteria(), None, [], [], [*found.notes, note])
    criteria, notes = _criteria_of(found)
    rate, rates = _learning_rates(found, criteria)
    results = []
    for claim in CLAIMS.values():
        for baseline in claim.baselines:
            seeds = found.rates("proma", baseline)
            results.append(_result(found, claim, baseline, [] if rate is None else [rate], seeds, criteria))
            if len(rates) > 1:
                results.append(_result(found, claim, baseline, rates, seeds, criteria))
    if rate is None:
        notes.append(f"{found.title}: no run of PROMA and of a baseline with the same learning rate and seed")
    elif len(rates) < 2:
        notes.append(f"{found.title}: a single learning rate ({rate:g}), hence no frontier")
    return TierClaims(found, criteria, rate, rates, results, [*found.notes, *notes])


def _result(
    found: Comparable,
    claim: Claim,
    baseline: str,
    rates: list[float],
    seeds: dict[float, list[int]],
    criteria: Criteria,
) -> ClaimResult:
    """Several learning rates make it the frontier protocol; a seed counts when it ran with all of them."""
    protocol: Protocol = "frontier" if len(rates) > 1 else "same_settings"
    complete = sorted(set.intersection(*(set(seeds.get(rate, [])) for rate in rates))) if rates else []
    pairs = [(found.select("proma", rates, seed), found.select(baseline, rates, seed)) for seed in complete]
    measures = claim.frontier if protocol == "frontier" else claim.same_settings
    estimates = [
        estimate([measure(ours, theirs, criteria) for ours, theirs in pairs], criteria) for measure in measures
    ]
    verdicts = [judge(claim.statement, one, criteria) for one in estimates]
    # Each of several parts must hold, and one that fails decides. The row shows the part that decides: the weakest.
    weakest = min(range(len(measures)), key=lambda part: _strength(claim.statement, estimates[part], verdicts[part]))
    shown = estimates[weakest]
    centre, low, high = (number if math.isfinite(number) else None for number in shown[:3])
    diverged = len(found.diverged_seeds("proma", baseline, rates)) if rates else 0
    return ClaimResult(
        found.tier, found.task, claim.name, baseline, protocol, centre, low, high, shown.n, verdicts[weakest], diverged
    )


def _strength(statement: Statement, found: Estimate, verdict: Verdict) -> tuple[int, float]:
    """Orders the parts of a claim: first by verdict, then by how far the interval is on the claim's side."""
    edge = -found.high if statement == "lower" else found.low
    return ("fails", "inconclusive", "holds").index(verdict), -math.inf if math.isnan(edge) else edge


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
