"""The paper's claims, each judged by paired differences over seeds under a rule that was fixed before the runs.

Two protocols. *Same settings*: one learning rate for all methods, the rung's default. *Frontier*: a sweep of learning
rates for each method, compared at equal score (see :mod:`proma_bench.report.frontier`).

A verdict follows from the confidence interval of PROMA minus the baseline, and from nothing else:

    statement    holds                     fails                     inconclusive
    lower        interval below 0          interval above 0          0 inside
    higher       interval above 0          interval below 0          0 inside
    not lower    low end at or above -m    high end below -m         -m inside        (m: the rule's margin)

With fewer pairs than the rule asks for, every verdict is inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from proma_bench.config.language import TINY
from proma_bench.errors import UsageError
from proma_bench.report.frontier import difference_at_equal_score, series
from proma_bench.report.paired import Comparable, Estimate, comparable, estimate
from proma_bench.rule import Rule, from_json
from proma_bench.runs import Run, write_json

Verdict = Literal["holds", "fails", "inconclusive"]
Protocol = Literal["same_settings", "frontier"]
Statement = Literal["lower", "higher", "not lower"]
Measure = Callable[[Sequence[Run], Sequence[Run], Rule], float]
"""PROMA's runs of one seed and the baseline's (one each, or one a learning rate) to PROMA minus the baseline."""


class Claim(NamedTuple):
    """A row of the claims table. With several measures the statement must be true of each."""

    name: str
    baselines: tuple[str, ...]
    statement: Statement
    text: str
    same_settings: tuple[Measure, ...]
    frontier: tuple[Measure, ...]


@dataclass(frozen=True)
class Finding:
    """What came out for one claim against one baseline: a row of ``claims.json``; None where there is no number."""

    tier: str
    claim: str
    baseline: str
    protocol: Protocol
    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    verdict: Verdict


@dataclass(frozen=True)
class RungClaims:
    """All findings on one rung, how they were judged, and what to know when reading them.

    rate: the learning rate of the same-settings protocol; rates: those of the frontier; None and empty without pairs.
    """

    comparable: Comparable
    rule: Rule
    rate: float | None
    rates: list[float]
    findings: list[Finding]
    notes: list[str]


# ------------------------------------------------------------------------------------------ what is measured


def _final(run: Run, metric: str) -> float:
    values = series(run, metric)
    measured = values[~np.isnan(values)]
    return float(measured[-1]) if len(measured) else math.nan


def _end(metric: str) -> Measure:
    """At the end of training."""

    def measure(ours: Sequence[Run], theirs: Sequence[Run], rule: Rule) -> float:
        (mine,), (other,) = ours, theirs
        return _final(mine, metric) - _final(other, metric)

    return measure


def _final_score(ours: Sequence[Run], theirs: Sequence[Run], rule: Rule) -> float:
    """The score at the end of training; of several learning rates, each method has its own best."""
    mine, other = (np.fmax.reduce([_final(run, rule.score) for run in runs]) for runs in (ours, theirs))
    return float(mine - other)


def _mean_of_steps(metric: str) -> Measure:
    """Step by step, meaned over the steps."""

    def measure(ours: Sequence[Run], theirs: Sequence[Run], rule: Rule) -> float:
        (mine,), (other,) = ours, theirs
        differences = series(mine, metric) - series(other, metric)
        measured = differences[~np.isnan(differences)]
        return float(measured.mean()) if len(measured) else math.nan

    return measure


def _equal_score(metric: str) -> Measure:
    """Score by score, meaned over the scores that both reach."""
    return lambda ours, theirs, rule: difference_at_equal_score(ours, theirs, metric, rule)


CLAIMS = (
    Claim(
        "accuracy", ("grpo",), "not lower", "final validation score is not lower",
        (_final_score,), (_final_score,),
    ),
    Claim(
        "kl_local", ("grpo", "reinforce"), "lower", "local KL is lower",
        (_mean_of_steps("kl_local"),), (_equal_score("kl_local"),),
    ),
    Claim(
        "kl_global", ("reinforce",), "lower", "global KL is lower",
        (_end("kl_global"),), (_equal_score("kl_global"),),
    ),
    Claim(
        "entropy", ("grpo", "reinforce"), "higher", "entropy stays higher",
        (_mean_of_steps("entropy"), _equal_score("entropy")), (_equal_score("entropy"),),
    ),
)  # fmt: skip


# -------------------------------------------------------------------------------------------------- judgement


def judge(statement: Statement, found: Estimate, rule: Rule) -> Verdict:
    """The verdict that an interval gives (see the table at the top of this file)."""
    if found.n < rule.min_pairs or math.isnan(found.low):
        return "inconclusive"
    if statement == "not lower":
        holds, fails = found.low >= -rule.margin, found.high < -rule.margin
    else:
        below, above = found.high < 0, found.low > 0
        holds, fails = (below, above) if statement == "lower" else (above, below)
    return "holds" if holds else "fails" if fails else "inconclusive"


def evaluate(runs: Sequence[Run]) -> list[RungClaims]:
    """Judge all claims on every rung that the runs belong to."""
    return [_evaluate(found) for found in comparable(runs)]


def _evaluate(found: Comparable) -> RungClaims:
    if all(run.config.get("model") == TINY for run in found.members):
        note = (
            f"{found.rung}: a smoke run with random weights, which shows that the code runs; no claim is judged on it"
        )
        return RungClaims(found, Rule(), None, [], [], [*found.notes, note])
    rule, notes = _rule_of(found)
    rate, rates = _learning_rates(found, rule)
    findings = []
    for claim in CLAIMS:
        for baseline in claim.baselines:
            seeds = found.rates("proma", baseline)
            findings.append(_finding(found, claim, baseline, [] if rate is None else [rate], seeds, rule))
            if len(rates) > 1:
                findings.append(_finding(found, claim, baseline, rates, seeds, rule))
    if rate is None:
        notes.append(f"{found.rung}: no run of PROMA and of a baseline with the same learning rate and seed")
    elif len(rates) < 2:
        notes.append(f"{found.rung}: a single learning rate ({rate:g}), hence no frontier")
    return RungClaims(found, rule, rate, rates, findings, [*found.notes, *notes])


def _finding(
    found: Comparable, claim: Claim, baseline: str, rates: list[float], seeds: dict[float, list[int]], rule: Rule
) -> Finding:
    """Several learning rates make it the frontier protocol; a seed counts when it ran with all of them."""
    protocol: Protocol = "frontier" if len(rates) > 1 else "same_settings"
    complete = sorted(set.intersection(*(set(seeds.get(rate, [])) for rate in rates))) if rates else []
    pairs = [(found.select("proma", rates, seed), found.select(baseline, rates, seed)) for seed in complete]
    measures = claim.frontier if protocol == "frontier" else claim.same_settings
    estimates = [estimate([measure(ours, theirs, rule) for ours, theirs in pairs], rule) for measure in measures]
    verdicts = [judge(claim.statement, one, rule) for one in estimates]
    # Each of several parts must hold, and one that fails decides. The row shows the part that decides: the weakest.
    weakest = min(range(len(measures)), key=lambda part: _strength(claim.statement, estimates[part], verdicts[part]))
    shown = estimates[weakest]
    centre, low, high = (None if math.isnan(number) else number for number in shown[:3])
    return Finding(found.rung, claim.name, baseline, protocol, centre, low, high, shown.n, verdicts[weakest])


def _strength(statement: Statement, found: Estimate, verdict: Verdict) -> tuple[int, float]:
    """Orders the parts of a claim: first by verdict, then by how far the interval is on the claim's side."""
    edge = -found.high if statement == "lower" else found.low
    return ("fails", "inconclusive", "holds").index(verdict), -math.inf if math.isnan(edge) else edge


def _learning_rates(found: Comparable, rule: Rule) -> tuple[float | None, list[float]]:
    """The same-settings rate and the sweep.

    The former is the rule's, or, where nothing ran with that, the one with the most pairs. The sweep is every rate that
    has at least half as many pairs as the one with the most: a stray run with another rate must not cost all pairs.
    """
    pairs: dict[float, int] = {}
    for baseline in ("grpo", "reinforce"):
        for rate, seeds in found.rates("proma", baseline).items():
            pairs[rate] = pairs.get(rate, 0) + len(seeds)
    if not pairs:
        return None, []
    most = max(sorted(pairs), key=pairs.__getitem__)
    sweep = sorted(rate for rate, count in pairs.items() if 2 * count >= pairs[most])
    return rule.learning_rate if rule.learning_rate in pairs else most, sweep


def _rule_of(found: Comparable) -> tuple[Rule, list[str]]:
    """The rule that the runs have in their config, and what to say when that is not one and the same rule."""
    stored = [run.config.get("rule") for run in found.runs.values()]
    recorded = [rule for rule in stored if rule is not None]
    if not recorded:
        return Rule(), [f"{found.rung}: no rule was fixed in the runs' config; judged by this version's"] * bool(stored)
    try:
        rules = {from_json(rule) for rule in recorded}
    except UsageError as error:
        return Rule(), [f"{found.rung}: {error}; judged by this version's rule"]
    if len(rules) > 1 or len(recorded) < len(stored):
        return max(rules, key=lambda rule: rule.min_pairs), [f"{found.rung}: the runs were made under different rules"]
    return rules.pop(), []


# ---------------------------------------------------------------------------------------------------- writing


def write_claims(rungs: Sequence[RungClaims], path: Path) -> Path:
    """Write ``claims.json``: a list of findings."""
    rows: list[dict[str, Any]] = [asdict(finding) for rung in rungs for finding in rung.findings]
    write_json(path, rows)
    return path
