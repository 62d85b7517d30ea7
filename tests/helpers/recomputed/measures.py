"""What is compared, claim by claim: the table of docs/claims.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from recomputed.frontier import Columns, Criteria, Frontier, Swept, common_levels
from recomputed.statistics import Values


class Found(NamedTuple):
    """A difference for each seed; the shares at an edge of the sweep; among how many comparisons it was chosen."""

    values: Values
    edges: tuple[float, float] | None = None
    choices: int = 1


Measure = Callable[[Swept, Swept, Criteria], Found]


def last(values: Values) -> float:
    measured = values[~np.isnan(values)]
    return float(measured[-1]) if len(measured) else math.nan


def at_the_end(metric: str) -> Measure:
    def measure(ours: Swept, theirs: Swept, criteria: Criteria) -> Found:
        (mine, other) = (np.array([last(runs[0][metric]) for runs in one.runs]) for one in (ours, theirs))
        return Found(mine - other)

    return measure


def mean_of_steps(metric: str) -> Measure:
    def measure(ours: Swept, theirs: Swept, criteria: Criteria) -> Found:
        pairs = zip(ours.runs, theirs.runs, strict=True)
        return Found(np.array([np.nanmean(mine[0][metric] - other[0][metric]) for mine, other in pairs]))

    return measure


def best_final_score(ours: Swept, theirs: Swept, criteria: Criteria) -> Found:
    chosen, edges = [], []
    for one in (ours, theirs):
        scores = np.array([[last(run["score"]) for run in runs] for runs in one.runs])
        best = int(np.argmax(scores.mean(axis=0)))
        chosen.append(scores[:, best])
        edges.append(float(best in (0, scores.shape[1] - 1)))
    return Found(chosen[0] - chosen[1], (edges[0], edges[1]), len(ours.runs[0]) * len(theirs.runs[0]))


def at_equal(along: str, metric: str) -> Measure:
    def measure(ours: Swept, theirs: Swept, criteria: Criteria) -> Found:
        mine, other = (Frontier(one, along, metric, criteria) for one in (ours, theirs))
        values, edges = [], []
        for seed in range(len(ours.runs)):
            levels = common_levels([mine.paths[seed], other.paths[seed]], criteria["levels"])
            (y1, edge1), (y2, edge2) = mine.at(seed, levels), other.at(seed, levels)
            both = ~np.isnan(y1) & ~np.isnan(y2)
            values.append((y1 - y2)[both].mean() if both.any() else math.nan)
            edges += list(zip(edge1[both], edge2[both], strict=True))
        shares = np.mean(edges, axis=0) if edges and len(ours.runs[0]) > 1 else None  # of one rate none is chosen
        return Found(np.array(values), None if shares is None else (float(shares[0]), float(shares[1])))

    return measure


def final_score_by_kl(ours: Swept, theirs: Swept, criteria: Criteria) -> Found:
    return Found(
        np.array([_between_lines(mine, other, criteria) for mine, other in zip(ours.runs, theirs.runs, strict=True)])
    )


def _between_lines(mine: Sequence[Columns], other: Sequence[Columns], criteria: Criteria) -> float:
    lines = []
    for runs in (mine, other):
        points = sorted((math.log(np.nanmean(run["kl_local"])), last(run["score"])) for run in runs)
        lines.append(np.array(points).T)
    low, high = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    if not low < high:
        return math.nan
    at = np.linspace(low, high, criteria["levels"])
    return float(np.mean(np.interp(at, *lines[0]) - np.interp(at, *lines[1])))


LOWER_AND_HIGHER = (slice(None, 2), slice(2, None))  # of the four rates that every published sweep has
EVERY_OTHER = (slice(None, None, 2), slice(1, None, 2))


class Claim(NamedTuple):
    """A row of the table in docs/claims.md."""

    baselines: tuple[str, ...]
    statement: str
    same_settings: tuple[Measure, ...]
    frontier: Measure
    halves: tuple[slice, slice] = LOWER_AND_HIGHER


BOTH = ("grpo", "reinforce")
CLAIMS = {
    "score": Claim(("grpo",), "not lower", (at_the_end("score"),), best_final_score),
    "kl_local": Claim(BOTH, "lower", (mean_of_steps("kl_local"),), at_equal("score", "kl_local")),
    "kl_global": Claim(("reinforce",), "lower", (at_the_end("kl_global"),), at_equal("score", "kl_global")),
    "entropy": Claim(
        BOTH, "higher", (mean_of_steps("entropy"), at_equal("score", "entropy")), at_equal("score", "entropy")
    ),
    "score_per_kl": Claim(BOTH, "higher", (), at_equal("kl_spent", "score")),
    "score_at_kl": Claim(BOTH, "higher", (), final_score_by_kl, EVERY_OTHER),
}
