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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from proma_bench.report.claims import CLAIMS
from proma_bench.report.curves import Curves, curves_of, last_measured
from proma_bench.report.judging import TierClaims
from proma_bench.report.paired import Comparable, Estimate, estimate, p_value
from proma_bench.report.statistics import Array, holm, interval, method_order
from proma_bench.report.verdicts import Judgement, Verdict, halves, judge, judge_curves, too_few
from proma_bench.runs.criteria import SCORES, Criteria
from proma_bench.runs.directory import Run
from proma_bench.runs.matching import BASELINE, matched_rate, mean_local_kl

ALONG_THE_SWEEP = ("score_per_kl", "kl_local", "entropy")
"""Claims whose frontier is judged for every method against the baseline."""
OURS, OBSERVED = "proma", "observe"


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


class Compared(NamedTuple):
    """A difference of paired seeds, what it says, and the p-value adjusted for the number of methods (Holm)."""

    found: Estimate
    verdict: Verdict
    p_holm: float
    why: str = ""


@dataclass(frozen=True)
class Matched:
    """A method at the rate where its mean local KL is that of the baseline.

    Attributes:
        kl_local: that mean, in nats.
        scores: the final scores, by metric, minus the baseline's.
        below_ours: PROMA's final score minus this method's, both at their matched rates; None for PROMA itself and the
            baseline.
    """

    learning_rate: float
    kl_local: float
    scores: dict[str, Compared]
    below_ours: Compared | None


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
        matched = _all_matched(tier, by_method, default, target) if target > 0 else {}
    along, placebos = _along_the_sweep(tier, by_method, rates)
    return Leaderboard(tier.comparable.title, standings, rates, target, matched, along, placebos)


Seeds = dict[int, Run]
Rates = dict[float, Seeds]


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
    curves = _curves(mine[best].values())
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
    value = float(last_measured(_curves(runs.values())[tier.criteria.score]).mean())
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


def _curves(runs: Iterable[Run]) -> Curves:
    return curves_of([[run] for run in runs])


# ------------------------------------------------------------------------------------ against the baseline


def _all_matched(tier: TierClaims, by_method: Mapping[str, Rates], default: float, target: float) -> dict[str, Matched]:
    """The methods that ran at a rate with this mean local KL, in the order of tables."""
    kl = {
        name: {rate: mean_local_kl(list(runs.values())) for rate, runs in by_method[name].items()} for name in by_method
    }
    seeds = len(by_method[BASELINE][default])
    rates = {
        name: rate
        for name in by_method
        if (rate := matched_rate(kl[name], target)) is not None and len(by_method[name][rate]) == seeds
    }
    finals = {name: {seed: _final_scores(run) for seed, run in by_method[name][rates[name]].items()} for name in rates}
    compared = {
        metric: _adjusted({name: _differences(finals[name], finals[BASELINE], metric) for name in rates}, tier)
        for metric in SCORES
    }
    against_ours = {}
    if OURS in finals:
        others = [name for name in rates if name not in (OURS, BASELINE)]
        differences = {name: _differences(finals[OURS], finals[name], tier.criteria.score) for name in others}
        against_ours = _adjusted(differences, tier)
    return {
        name: Matched(
            rate, kl[name][rate], {metric: compared[metric][name] for metric in SCORES}, against_ours.get(name)
        )
        for name, rate in rates.items()
    }


def _final_scores(run: Run) -> dict[str, float]:
    curves = _curves([run])
    return {metric: float(last_measured(curves[metric])[0, 0]) for metric in SCORES}


def _differences(
    mine: Mapping[int, Mapping[str, float]], other: Mapping[int, Mapping[str, float]], metric: str
) -> Array:
    return np.array([mine[seed][metric] - other[seed][metric] for seed in sorted(mine.keys() & other.keys())])


def _adjusted(differences: Mapping[str, Array], tier: TierClaims) -> dict[str, Compared]:
    """Each with its verdict on "higher", the p-values adjusted for their number; equal runs have none."""
    levels = _holm({name: p_value(values) for name, values in differences.items() if np.any(values)})
    found = {name: estimate(values, tier.criteria) for name, values in differences.items()}
    return {
        name: Compared(
            one, judge("higher", one, tier.criteria), levels.get(name, math.nan), too_few(one.n, tier.criteria)
        )
        for name, one in found.items()
    }


def _holm(levels: Mapping[str, float]) -> dict[str, float]:
    known = {name: level for name, level in levels.items() if not math.isnan(level)}
    return dict(zip(known, holm(list(known.values())), strict=True))


def _along_the_sweep(
    tier: TierClaims, by_method: Mapping[str, Rates], rates: Sequence[float]
) -> tuple[dict[str, dict[str, Compared]], dict[str, Estimate]]:
    """The frontier of each method against the baseline's, and the placebo, claim by claim."""
    along: dict[str, dict[str, Compared]] = {}
    placebos: dict[str, Estimate] = {}
    if BASELINE not in by_method or len(rates) < 2:
        return along, placebos
    for claim in ALONG_THE_SWEEP:
        judged: dict[str, Judgement] = {}
        for method in by_method:
            seeds = _complete([by_method[method], by_method[BASELINE]], rates)
            if method != BASELINE and seeds:
                ours, theirs = (_swept(by_method[name], rates, seeds) for name in (method, BASELINE))
                judged[method] = judge_curves(CLAIMS[claim], "frontier", ours, theirs, tier.criteria)
        levels = _holm({method: one.p for method, one in judged.items()})
        along[claim] = {
            method: Compared(one.found, one.verdict, levels.get(method, math.nan), one.why)
            for method, one in judged.items()
        }
        if seeds := _complete([by_method[BASELINE]], rates):
            placebos[claim] = _placebo(claim, _swept(by_method[BASELINE], rates, seeds), tier.criteria)
    return along, placebos


def _complete(methods: Sequence[Rates], rates: Sequence[float]) -> list[int]:
    """The seeds that ran with all rates of the sweep, in all of these methods."""
    return sorted(set.intersection(*(set(method.get(rate, {})) for method in methods for rate in rates)))


def _swept(method: Rates, rates: Sequence[float], seeds: Sequence[int]) -> Curves:
    return curves_of([[method[rate][seed] for rate in rates] for seed in seeds])


def _placebo(claim: str, baseline: Curves, criteria: Criteria) -> Estimate:
    (measure,) = CLAIMS[claim].frontier
    return estimate(measure.compare(*halves(baseline, measure), criteria).values, criteria)
