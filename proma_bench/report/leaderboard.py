"""One table of all methods on a tier: what each reached, what it spent, and its difference from REINFORCE.

Two questions have two tables. *What does a method reach at its best?* Each method stands at the learning rate of the
sweep with its best mean final score; means over seeds with Student's intervals. *Does it get more than REINFORCE for
the same change of the policy?* Differences of paired seeds, by the estimates and intervals of the claims: the final
score at matched rates (`proma_bench.runs.matching`), and along the whole sweep at equal score or equal KL, where the
placebo counts (`proma_bench.report.verdicts`).
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from proma_bench.report.against import (
    Compared,
    Matched,
    Rates,
    Seeds,
    all_matched,
    along_the_sweep,
    curves_of_runs,
)
from proma_bench.report.curves import last_measured
from proma_bench.report.judging import TierClaims
from proma_bench.report.paired import Comparable, Estimate
from proma_bench.report.statistics import Array, interval, method_order
from proma_bench.runs.criteria import SCORES
from proma_bench.runs.directory import Run
from proma_bench.runs.matching import BASELINE, mean_local_kl

OBSERVED = "observe"


class Mean(NamedTuple):
    """A mean over seeds with its interval (NaN for fewer than five); all NaN where it was not measured."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Standing:
    """A method at its best learning rate.

    Attributes:
        at_edge: whether that is the lowest or the highest of the sweep, beyond which there may be a better one.
        score: at the end; ``score_sampled`` likewise.
        kl_spent: local KL of all steps, in nats.
        unseen: mean local KL on the other sequences of the batch, relative to that on those a step learns from.
        per_nat: score gained since the first step, over ``kl_spent``.
        entropy: at the end, in nats.
        cost: seconds of an update relative to the baseline's with the same seed, both as medians over the steps at the
            tier's default rate.
    """

    method: str
    learning_rate: float
    at_edge: bool
    n: int
    diverged: int
    score: Mean
    score_sampled: Mean
    kl_spent: Mean
    unseen: Mean
    per_nat: Mean
    entropy: Mean
    cost: Mean


@dataclass(frozen=True)
class Leaderboard:
    """All methods of a tier.

    Attributes:
        standings: in the order of tables, each method that finished a run of the sweep.
        rates: the sweep.
        target: the baseline's mean local KL at the default rate; None where the baseline did not run.
        matched: by method, those with a matched rate.
        along: by claim and method, the judgements over the sweep against the baseline.
        placebos: by claim, what the baseline makes against itself.
    """

    title: str
    standings: list[Standing]
    rates: list[float]
    target: float | None
    matched: dict[str, Matched] = field(default_factory=dict)
    along: dict[str, dict[str, Compared]] = field(default_factory=dict)
    placebos: dict[str, Estimate] = field(default_factory=dict)


def leaderboard(tier: TierClaims) -> Leaderboard | None:
    """The leaderboard of a tier; None where no method finished a run, and for smoke runs."""
    if tier.comparable.is_smoke_run:
        return None
    by_method = _by_method(tier)
    rates = _sweep(tier.comparable)
    methods = [method for method in by_method if any(by_method[method].get(rate) for rate in rates)]
    if not methods:
        return None
    default = tier.criteria.learning_rate if tier.criteria.learning_rate in rates else tier.rate
    standings = [_standing(tier, method, by_method, rates, default) for method in methods]
    target = None
    matched: dict[str, Matched] = {}
    if default is not None and (baseline := by_method.get(BASELINE, {}).get(default)):
        target = mean_local_kl(list(baseline.values()))
        matched = all_matched(by_method, default, target, tier.criteria) if target > 0 else {}
    along, placebos = along_the_sweep(by_method, rates, tier.criteria)
    return Leaderboard(tier.comparable.title, standings, rates, target, matched, along, placebos)


def _by_method(tier: TierClaims) -> dict[str, Rates]:
    """The finished runs, by method, learning rate and seed; those of `observe` are the baseline's own."""
    found: dict[str, Rates] = {}
    for method, rate, seed in sorted(tier.comparable.runs, key=lambda key: (method_order(key[0]), *key[1:])):
        if method == OBSERVED:
            continue
        run = tier.comparable.runs[method, rate, seed]
        found.setdefault(method, {}).setdefault(rate, {})[seed] = run
    return found


def _sweep(found: Comparable) -> list[float]:
    """Every rate at which more than half of the methods ran: matched rates, which each has alone, are no part of it."""
    ran = collections.Counter(rate for _, rate in {(method, rate) for method, rate, _ in found.runs | found.diverged})
    methods = len({method for method, _, _ in found.runs | found.diverged})
    return sorted(rate for rate, count in ran.items() if 2 * count > methods)


# ------------------------------------------------------------------------------------ a method at its best


def _standing(
    tier: TierClaims, method: str, by_method: Mapping[str, Rates], rates: Sequence[float], default: float | None
) -> Standing:
    mine = by_method[method]
    swept = [rate for rate in rates if rate in mine]
    most = max(len(mine[rate]) for rate in swept)  # the survivors among many that diverged are no mean
    best = max((rate for rate in swept if len(mine[rate]) == most), key=lambda rate: _final_score(tier, mine[rate]))
    curves = curves_of_runs(mine[best].values())
    ends = {name: last_measured(curves[name])[:, 0] for name in (*SCORES, "entropy")}
    score = curves[tier.criteria.score][:, 0]
    gained = last_measured(score) - last_measured(score[:, ::-1])  # the first one that was measured
    spent = _mean_of_steps(curves["kl_local"]) * curves["kl_local"].shape[-1]
    diverged = sum(name == method and rate == best for name, rate, _ in tier.comparable.diverged)
    return Standing(
        method=method,
        learning_rate=best,
        at_edge=len(rates) > 1 and best in (rates[0], rates[-1]),
        n=len(mine[best]),
        diverged=diverged,
        score=_mean(ends[tier.criteria.score]),
        score_sampled=_mean(ends["score_sampled"]),
        kl_spent=_mean(spent),
        unseen=_mean(_ratio(_mean_of_steps(curves["kl_local_unseen"]), _mean_of_steps(curves["kl_local"]))),
        per_nat=_mean(_ratio(gained, spent)),
        entropy=_mean(ends["entropy"]),
        cost=_cost(mine.get(default or best, {}), by_method.get(BASELINE, {}).get(default or best, {})),
    )


def _mean_of_steps(values: Array) -> Array:
    """Over the steps that have a value [seeds]; NaN where none has."""
    measured = ~np.isnan(values[:, 0])
    return _ratio(np.nansum(values[:, 0], axis=-1), measured.sum(axis=-1).astype(float))


def _final_score(tier: TierClaims, runs: Seeds) -> float:
    value = float(last_measured(curves_of_runs(runs.values())[tier.criteria.score]).mean())
    return -math.inf if math.isnan(value) else value


def _cost(mine: Seeds, baseline: Seeds) -> Mean:
    shared = sorted(mine.keys() & baseline.keys())
    seconds = [np.array([_median_update(runs[seed]) for seed in shared]) for runs in (mine, baseline)]
    return _mean(_ratio(*seconds))


def _median_update(run: Run) -> float:
    seconds = [step["update_seconds"] for step in run.metrics if step.get("update_seconds")]
    return float(np.median(seconds)) if seconds else math.nan


def _ratio(values: Array, others: Array) -> Array:
    """NaN where it is no number: runs are files that anybody may have written."""
    with np.errstate(all="ignore"):
        ratio = values / others
    return np.where((others > 0) & np.isfinite(ratio), ratio, np.nan)


def _mean(values: Array) -> Mean:
    if not len(values) or np.isnan(values).any():
        return Mean(math.nan, math.nan, math.nan)
    return Mean(*map(float, interval(values)))
