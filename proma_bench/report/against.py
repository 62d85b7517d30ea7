"""Every method against the baseline, seed by seed: at equal local KL, and along the sweep beside the placebo."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from proma_bench.report.claims import CLAIMS
from proma_bench.report.curves import Curves, curves_of, last_measured
from proma_bench.report.paired import Estimate, estimate, p_value
from proma_bench.report.statistics import Array, holm
from proma_bench.report.verdicts import Judgement, Verdict, halves, judge, judge_curves, too_few
from proma_bench.runs.criteria import SCORES, Criteria
from proma_bench.runs.directory import Run
from proma_bench.runs.matching import BASELINE, matched_rate, mean_local_kl

ALONG_THE_SWEEP = ("score_per_kl", "kl_local", "entropy")
"""Claims whose frontier is judged for every method against the baseline."""
OURS = "proma"

Name = TypeVar("Name", bound=Hashable)
Seeds = dict[int, Run]
Rates = dict[float, Seeds]
"""The finished runs of a method, by learning rate and seed."""


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


def all_matched(
    by_method: Mapping[str, Rates], default: float, target: float, criteria: Criteria
) -> dict[str, Matched]:
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
        metric: adjusted({name: _differences(finals[name], finals[BASELINE], metric) for name in rates}, criteria)
        for metric in SCORES
    }
    against_ours = {}
    if OURS in finals:
        others = [name for name in rates if name not in (OURS, BASELINE)]
        differences = {name: _differences(finals[OURS], finals[name], criteria.score) for name in others}
        against_ours = adjusted(differences, criteria)
    return {
        name: Matched(
            rate, kl[name][rate], {metric: compared[metric][name] for metric in SCORES}, against_ours.get(name)
        )
        for name, rate in rates.items()
    }


def _final_scores(run: Run) -> dict[str, float]:
    curves = curves_of_runs([run])
    return {metric: float(last_measured(curves[metric])[0, 0]) for metric in SCORES}


def _differences(
    mine: Mapping[int, Mapping[str, float]], other: Mapping[int, Mapping[str, float]], metric: str
) -> Array:
    return np.array([mine[seed][metric] - other[seed][metric] for seed in sorted(mine.keys() & other.keys())])


def adjusted(differences: Mapping[Name, Array], criteria: Criteria) -> dict[Name, Compared]:
    """Each with its verdict on "higher", the p-values adjusted for their number; equal runs have none."""
    levels = _holm({name: p_value(values) for name, values in differences.items() if np.any(values)})
    found = {name: estimate(values, criteria) for name, values in differences.items()}
    return {
        name: Compared(one, judge("higher", one, criteria), levels.get(name, math.nan), too_few(one.n, criteria))
        for name, one in found.items()
    }


def _holm(levels: Mapping[Name, float]) -> dict[Name, float]:
    known = {name: level for name, level in levels.items() if not math.isnan(level)}
    return dict(zip(known, holm(list(known.values())), strict=True))


def along_the_sweep(
    by_method: Mapping[str, Rates], rates: Sequence[float], criteria: Criteria
) -> tuple[dict[str, dict[str, Compared]], dict[str, Estimate]]:
    """The frontier of each method against the baseline's, and the placebo, claim by claim."""
    along: dict[str, dict[str, Compared]] = {}
    placebos: dict[str, Estimate] = {}
    if BASELINE not in by_method or len(rates) < 2:
        return along, placebos

    @functools.cache  # every claim reads the same curves, and mostly every method is beside the same ones
    def swept(method: str, seeds: tuple[int, ...]) -> Curves:
        return curves_of([[by_method[method][rate][seed] for rate in rates] for seed in seeds])

    for claim in ALONG_THE_SWEEP:
        judged: dict[str, Judgement] = {}
        for method in by_method:
            seeds = _complete([by_method[method], by_method[BASELINE]], rates)
            if method != BASELINE and seeds:
                ours, theirs = (swept(name, seeds) for name in (method, BASELINE))
                judged[method] = judge_curves(CLAIMS[claim], "frontier", ours, theirs, criteria)
        levels = _holm({method: one.p for method, one in judged.items()})
        along[claim] = {
            method: Compared(one.found, one.verdict, levels.get(method, math.nan), one.why)
            for method, one in judged.items()
        }
        if seeds := _complete([by_method[BASELINE]], rates):
            placebos[claim] = _placebo(claim, swept(BASELINE, seeds), criteria)
    return along, placebos


def _complete(methods: Sequence[Rates], rates: Sequence[float]) -> tuple[int, ...]:
    """The seeds that ran with all rates of the sweep, in all of these methods."""
    return tuple(sorted(set.intersection(*(set(method.get(rate, {})) for method in methods for rate in rates))))


def _placebo(claim: str, baseline: Curves, criteria: Criteria) -> Estimate:
    (measure,) = CLAIMS[claim].frontier
    return estimate(measure.compare(*halves(baseline, measure), criteria).values, criteria)


def curves_of_runs(runs: Iterable[Run]) -> Curves:
    """Those of the seeds at one learning rate."""
    return curves_of([[run] for run in runs])
