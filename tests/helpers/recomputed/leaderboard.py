"""The two tables of a tier in docs/leaderboard.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from recomputed.frontier import Columns
from recomputed.measures import CLAIMS, last
from recomputed.runs import BASELINE, OURS, Runs
from recomputed.statistics import SIGMAS, Interval, Values, interval, p_value
from recomputed.verdicts import Row, bounded, row, verdict


class Against(NamedTuple):
    """A method at its matched rate, minus the baseline there."""

    rate: float
    kl_local: float
    scores: dict[str, Row]
    below_ours: Row | None


def mean_kl(seeds: Mapping[int, Columns]) -> float:
    return float(np.mean([np.nanmean(run["kl_local"]) for run in seeds.values()]))


def matched_rates(runs: Runs) -> dict[str, float]:
    """Of each method the rate whose mean local KL is nearest to the baseline's at the default rate, to 5 %."""
    target = mean_kl(runs.ended[BASELINE][runs.criteria["learning_rate"]])
    found = {}
    for method, rates in runs.ended.items():
        distance, rate = min((abs(mean_kl(seeds) - target), rate) for rate, seeds in rates.items())
        if distance <= 0.05 * target:
            found[method] = rate
    return found


def matched(runs: Runs) -> dict[str, Against]:
    rates = matched_rates(runs)
    finals = {
        method: {
            seed: {m: last(run[m]) if m in run else math.nan for m in ("score", "score_sampled")}
            for seed, run in at.items()
        }
        for method, at in ((method, runs.ended[method][rate]) for method, rate in rates.items())
    }

    def differences(mine: str, other: str, metric: str) -> Values:
        shared = sorted(finals[mine].keys() & finals[other].keys())
        return np.array([finals[mine][seed][metric] - finals[other][seed][metric] for seed in shared])

    def higher(values: Values) -> Row:
        found = interval(values, runs.criteria["confidence"])
        said = {(verdict("higher", found, runs.criteria, s), "") for s in (-SIGMAS, 0, SIGMAS)}
        p = p_value(values) if np.any(values) else math.nan  # equal runs have none
        return Row(found, said, bounded(p, found.n))

    return {
        method: Against(
            rate,
            mean_kl(runs.ended[method][rate]),
            {metric: higher(differences(method, BASELINE, metric)) for metric in ("score", "score_sampled")},
            higher(differences(OURS, method, "score")) if OURS in rates and method not in (OURS, BASELINE) else None,
        )
        for method, rate in rates.items()
    }


def along_the_sweep(runs: Runs, name: str) -> dict[str, Row]:
    """Each method's row against the baseline."""
    rates, found = runs.rates_of_the_sweep(), {}
    for method in runs.ended:
        if method != BASELINE and (seeds := runs.seeds((method, BASELINE), rates)):
            ours, theirs = (runs.swept(one, rates, seeds) for one in (method, BASELINE))
            found[method] = row(CLAIMS[name], "frontier", ours, theirs, runs.criteria)
    return found


def placebo(runs: Runs, name: str) -> Interval:
    rates, claim = runs.rates_of_the_sweep(), CLAIMS[name]
    of_baseline = runs.swept(BASELINE, rates, runs.seeds((BASELINE,), rates))
    lower, higher = (of_baseline.part(part) for part in claim.halves)
    return interval(claim.frontier(lower, higher, runs.criteria).values, runs.criteria["confidence"])


class Best(NamedTuple):
    """A method at its best learning rate; each value as mean, low end, high end."""

    rate: float
    at_edge: bool
    n: int
    diverged: int
    means: dict[str, tuple[float, float, float]]


def best(runs: Runs, method: str) -> Best:
    sweep = runs.rates_of_the_sweep()
    mine = {rate: seeds for rate, seeds in runs.ended[method].items() if rate in sweep}
    rate = max(sorted(mine), key=lambda one: np.mean([last(run["score"]) for run in mine[one].values()]))
    default = runs.criteria["learning_rate"]
    spent = [np.nansum(run["kl_local"]) for run in mine[rate].values()]
    gained = [last(run["score"]) - last(run["score"][::-1]) for run in mine[rate].values()]
    seconds = [
        [
            np.nanmedian(runs.ended[one][default][seed]["update_seconds"])
            for seed in runs.seeds((method, BASELINE), (default,))
        ]
        for one in (method, BASELINE)
    ]
    values = {
        "final score": [last(run["score"]) for run in mine[rate].values()],
        "final sampled score": [last(run["score_sampled"]) for run in mine[rate].values() if "score_sampled" in run],
        "cumulative local KL (nats)": spent,
        "local KL on others of the batch, relative": [
            np.nanmean(run["kl_local_unseen"]) / np.nanmean(run["kl_local"])
            for run in mine[rate].values()
            if "kl_local_unseen" in run
        ],
        "score per nat": np.divide(gained, spent),
        "final entropy (nats)": [last(run["entropy"]) for run in mine[rate].values()],
        "time of an update, relative": np.divide(*seconds),
    }
    diverged = sum((method, rate) == (name, at) for name, at, _ in runs.diverged)
    at_edge = rate in (sweep[0], sweep[-1])
    return Best(rate, at_edge, len(mine[rate]), diverged, {k: _student(v) for k, v in values.items() if len(v)})


def _student(values: Sequence[float] | Values) -> tuple[float, float, float]:
    mean, half = float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half
