"""The claims, one record each: those of the paper, and two of our own that no learning rate can make true.

There are two protocols. *Same settings*: one learning rate for all methods, the tier's
default. *Frontier*: a sweep of learning rates for each method, compared at equal score (see `frontier`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from proma_bench.report.curves import KL_SPENT, Curves, last_measured
from proma_bench.report.frontier import differences
from proma_bench.report.statistics import Array
from proma_bench.runs.criteria import Criteria
from proma_bench.tables import Table

Statement = Literal["lower", "higher", "not lower"]


class Found(NamedTuple):
    """What a measure found.

    Attributes:
        values: PROMA minus the baseline, one a seed; NaN where it was not measured.
        edges: of PROMA and of the baseline, the share of values at an edge of the sweep; None where nothing was chosen.
        choices: among how many comparisons the values themselves chose this one.
    """

    values: Array
    edges: tuple[float, float] | None = None
    choices: int = 1


def lower_and_higher(rates: int) -> tuple[slice, slice]:
    """The lower half of a sweep and the higher one, without what is in the middle: they share no run."""
    return slice(None, rates // 2), slice((rates + 1) // 2, None)


class Measure(NamedTuple):
    """What is compared: PROMA's curves and the baseline's, of the same seeds, to a difference for each seed.

    Attributes:
        where: in words, for rows in which it was not measured.
        compare: the comparison.
        halves: of a number of learning rates, which make a placebo when compared with which others of the same method.
    """

    where: str
    compare: Callable[[Curves, Curves, Criteria], Found]
    halves: Callable[[int], tuple[slice, slice]] = lower_and_higher


class Claim(NamedTuple):
    """A row of the claims table. With several measures the statement must be true of each.

    Attributes:
        name: its key in ``claims.json``.
        baselines: the methods that PROMA is compared with.
        statement: what PROMA's values are, compared with the baseline's.
        text: the statement in words.
        same_settings: what is measured with one learning rate for all methods; empty if the claim is none about these.
        frontier: what is measured over a sweep of learning rates."""

    name: str
    baselines: tuple[str, ...]
    statement: Statement
    text: str
    same_settings: tuple[Measure, ...]
    frontier: tuple[Measure, ...]


# ------------------------------------------------------------------------------------------ what is measured


def at_the_end(metric: str) -> Measure:
    """At the end of training."""

    def compare(ours: Curves, theirs: Curves, criteria: Criteria) -> Found:
        mine, other = (last_measured(curves[metric])[:, 0] for curves in (ours, theirs))
        return Found(mine - other)

    return Measure("at the end", compare)


def _final_score(ours: Curves, theirs: Curves, criteria: Criteria) -> Found:
    finals = [last_measured(curves[criteria.score]) for curves in (ours, theirs)]  # [seeds, rates]
    rates = finals[0].shape[1]
    best = [int(np.argmax(np.where(np.isnan(final), -np.inf, final).mean(axis=0))) for final in finals]
    values = finals[0][:, best[0]] - finals[1][:, best[1]]
    at_edge = [float(rate in (0, rates - 1)) for rate in best]
    return Found(values, (at_edge[0], at_edge[1]) if rates > 1 else None, choices=rates**2)


final_score = Measure("at the end", _final_score)
"""The score at the end of training; of several learning rates, at the one with the method's best mean over seeds."""


def mean_of_steps(metric: str) -> Measure:
    """Step by step, averaged over the steps."""

    def compare(ours: Curves, theirs: Curves, criteria: Criteria) -> Found:
        differences = (ours[metric] - theirs[metric])[:, 0]
        measured = ~np.isnan(differences)
        sums, counts = np.where(measured, differences, 0).sum(axis=1), measured.sum(axis=1)
        return Found(np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0))

    return Measure("at the same step", compare)


def at_equal(along: Callable[[Criteria], str], metric: Callable[[Criteria], str], where: str) -> Measure:
    """Level by level of one metric, averaged over the levels that both methods reach."""

    def compare(ours: Curves, theirs: Curves, criteria: Criteria) -> Found:
        values, edges = differences(ours, theirs, along(criteria), metric(criteria), criteria)
        several = ours[along(criteria)].shape[1] > 1
        return Found(values, edges if several else None)

    return Measure(where, compare)


def at_equal_score(metric: str) -> Measure:
    """Score by score, averaged over the scores that both reach."""
    return at_equal(lambda criteria: criteria.score, lambda _: metric, "at equal score")


def score_at_equal_kl_spent() -> Measure:
    """The score that was reached with the same local KL of all steps together, from the first step to the last."""
    return at_equal(lambda _: KL_SPENT, lambda criteria: criteria.score, "at equal cumulative local KL")


def final_score_at_equal_local_kl() -> Measure:
    """The final score at the same mean local KL; between the learning rates of a sweep, on a line (in log KL)."""

    def compare(ours: Curves, theirs: Curves, criteria: Criteria) -> Found:
        lines = zip(_final_scores_by_kl(ours, criteria), _final_scores_by_kl(theirs, criteria), strict=True)
        return Found(np.array([_mean_distance(mine, other, criteria.levels) for mine, other in lines]))

    return Measure("at equal mean local KL", compare, lambda rates: (slice(None, None, 2), slice(1, None, 2)))


def _final_scores_by_kl(curves: Curves, criteria: Criteria) -> Iterator[tuple[Array, Array]]:
    """For each seed: the logarithm of each learning rate's mean local KL, in rising order, and its final score."""
    for kl, score in zip(curves["kl_local"].mean(axis=-1), last_measured(curves[criteria.score]), strict=True):
        measured = (kl > 0) & ~np.isnan(score)
        order = np.argsort(kl[measured])
        yield np.log(kl[measured][order]), score[measured][order]


def _mean_distance(mine: tuple[Array, Array], other: tuple[Array, Array], levels: int) -> float:
    """Between two lines through points (x rising, y), averaged over the x that both cover; NaN where there are none."""
    if not (len(mine[0]) and len(other[0])):
        return math.nan
    low, high = max(mine[0][0], other[0][0]), min(mine[0][-1], other[0][-1])
    at = np.linspace(low, high, levels)
    return float(np.mean(np.interp(at, *mine) - np.interp(at, *other))) if low <= high else math.nan


# --------------------------------------------------------------------------------------------------- the claims

CLAIMS: Table[Claim] = Table("claim")
"""All claims by name, in the order of the tables."""

register_claim = CLAIMS.register
"""Add a claim; reports judge it from then on."""


for _claim in (
    Claim(
        "score", ("grpo",), "not lower", "final validation score is not lower",
        (final_score,), (final_score,),
    ),
    Claim(
        "kl_local", ("grpo", "reinforce"), "lower", "local KL is lower",
        (mean_of_steps("kl_local"),), (at_equal_score("kl_local"),),
    ),
    Claim(
        "kl_global", ("reinforce",), "lower", "global KL is lower",
        (at_the_end("kl_global"),), (at_equal_score("kl_global"),),
    ),
    Claim(
        "entropy", ("grpo", "reinforce"), "higher", "entropy stays higher",
        (mean_of_steps("entropy"), at_equal_score("entropy")), (at_equal_score("entropy"),),
    ),
    Claim(
        "score_per_kl", ("grpo", "reinforce"), "higher", "score at equal cumulative local KL is higher",
        (), (score_at_equal_kl_spent(),),  # not at the same settings: half the learning rate raises it, too
    ),
    Claim(
        "score_at_kl", ("grpo", "reinforce"), "higher", "final score at equal mean local KL is higher",
        (), (final_score_at_equal_local_kl(),),
    ),
):  # fmt: skip
    register_claim(_claim)
