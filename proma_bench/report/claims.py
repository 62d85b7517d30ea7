"""The paper's claims, one record each.

There are two protocols. *Same settings*: one learning rate for all methods, the tier's
default. *Frontier*: a sweep of learning rates for each method, compared at equal score (see `frontier`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from proma_bench.report.frontier import difference_at_equal_score, series
from proma_bench.runs.criteria import Criteria
from proma_bench.runs.directory import Run
from proma_bench.tables import Table

Statement = Literal["lower", "higher", "not lower"]
Measure = Callable[[Sequence[Run], Sequence[Run], Criteria], float]
"""PROMA's runs of one seed and the baseline's (one each, or one per learning rate) to PROMA minus the baseline."""


class Claim(NamedTuple):
    """A row of the claims table. With several measures the statement must be true of each.

    Attributes:
        name: its key in ``claims.json``.
        baselines: the methods that PROMA is compared with.
        statement: what PROMA's values are, compared with the baseline's.
        text: the statement in words.
        same_settings: what is measured with one learning rate for all methods.
        frontier: what is measured over a sweep of learning rates."""

    name: str
    baselines: tuple[str, ...]
    statement: Statement
    text: str
    same_settings: tuple[Measure, ...]
    frontier: tuple[Measure, ...]


# ------------------------------------------------------------------------------------------ what is measured


def _final(run: Run, metric: str) -> float:
    values = series(run, metric)
    measured = values[~np.isnan(values)]
    return float(measured[-1]) if len(measured) else math.nan


def at_the_end(metric: str) -> Measure:
    """At the end of training."""

    def measure(ours: Sequence[Run], theirs: Sequence[Run], criteria: Criteria) -> float:
        (mine,), (other,) = ours, theirs
        return _final(mine, metric) - _final(other, metric)

    return measure


def final_score(ours: Sequence[Run], theirs: Sequence[Run], criteria: Criteria) -> float:
    """The score at the end of training; of several learning rates, each method has its own best."""
    mine, other = (np.fmax.reduce([_final(run, criteria.score) for run in runs]) for runs in (ours, theirs))
    return float(mine - other)


def mean_of_steps(metric: str) -> Measure:
    """Step by step, averaged over the steps."""

    def measure(ours: Sequence[Run], theirs: Sequence[Run], criteria: Criteria) -> float:
        (mine,), (other,) = ours, theirs
        differences = series(mine, metric) - series(other, metric)
        measured = differences[~np.isnan(differences)]
        return float(measured.mean()) if len(measured) else math.nan

    return measure


def at_equal_score(metric: str) -> Measure:
    """Score by score, averaged over the scores that both reach."""
    return lambda ours, theirs, criteria: difference_at_equal_score(ours, theirs, metric, criteria)


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
):  # fmt: skip
    register_claim(_claim)
