"""Answers to the exercises of lesson 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from exercises import Exercise, integers
from torch import Tensor


def _episode_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    ids = torch.cat([torch.arange(4), integers(draw, 4, 7)])
    return draw(11), ids, 4


def _pairs_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    ours, theirs = (
        {int(seed): float(value) for seed, value in zip(torch.randperm(9)[:6], draw(6), strict=True)} for _ in "ab"
    )
    return ours, theirs


def _interval_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    low, high = sorted(float(x) for x in (3 * draw(2)).round())
    return low, high, float((2 * draw(1)).abs().round())


def _kl_at_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    scores = draw(6).sort().values.numpy()
    return scores, draw(6).abs().numpy(), float(scores[0] + (scores[-1] - scores[0]) * float(draw(1).sigmoid()))


def _kl_by_hand(scores: Any, kl: Any, level: float) -> float:
    for i in range(len(scores) - 1):
        if scores[i] <= level <= scores[i + 1]:
            share = (level - scores[i]) / (scores[i + 1] - scores[i])
            return kl[i] + share * (kl[i + 1] - kl[i])
    return kl[-1]


def _verdict(holds: Callable[..., bool], fails: Callable[..., bool]) -> Callable[..., str]:
    return lambda low, high, m: "holds" if holds(low, high, m) else "fails" if fails(low, high, m) else "inconclusive"


EXERCISES = [
    Exercise(
        3,
        "of_episodes",
        _episode_problem,
        [
            lambda p, ids, count: torch.stack([p[ids == i].sum() for i in range(count)]),
            lambda p, ids, count: torch.bincount(ids, weights=p, minlength=count).tolist(),
        ],
        [
            (lambda p, ids, n: torch.stack([p[ids == i].mean() for i in range(n)]), "means over the steps"),
            (lambda p, ids, n: p.view(n, -1).sum(1), "Expected"),
            (lambda p, ids, n: p, "There are 3 episodes"),
            (lambda p, ids, n: torch.stack([p[ids == i].prod() for i in range(n)]), "Expected"),
            (lambda p, ids, n: torch.stack([p[ids == i].exp().sum() for i in range(n)]), "Expected"),
            (lambda p, ids, n: torch.stack([p[ids == i][-1] for i in range(n)]), "Expected"),
            (lambda p, ids, n: p.sum(), "There are 3 episodes"),
            (lambda p, ids, n: p.new_zeros(n).index_copy_(0, ids, p), "Expected"),
            (
                lambda p, ids, n: torch.stack(
                    [part.sum() for part in p.split(ids.unique_consecutive(return_counts=True)[1].tolist())]
                ),
                "There are 3 episodes",
            ),
        ],
    ),
    Exercise(
        3,
        "pairs",
        _pairs_problem,
        [
            lambda ours, theirs: np.array([ours[s] - theirs[s] for s in ours if s in theirs]),
            lambda ours, theirs: [value - theirs.get(s) for s, value in ours.items() if theirs.get(s) is not None],
        ],
        [
            (lambda ours, theirs: [ours[s] - theirs[s] for s in ours], "Some runs have not finished"),
            (
                lambda ours, theirs: [a - b for a, b in zip(ours.values(), theirs.values(), strict=False)],
                "by their place",
            ),
            (lambda ours, theirs: [theirs[s] - ours[s] for s in ours if s in theirs], "the wrong way round"),
            (lambda ours, theirs: [ours[s] - theirs.get(s, 0) for s in ours], "which makes 3 pairs"),
            (lambda ours, theirs: np.mean([ours[s] - theirs[s] for s in ours if s in theirs]), "all the differences"),
            (lambda ours, theirs: {s: ours[s] - theirs[s] for s in ours if s in theirs}, "all the differences"),
            (lambda ours, theirs: [abs(ours[s] - theirs[s]) for s in ours if s in theirs], "The differences are"),
            (lambda ours, theirs: [ours.get(s, 0) - theirs.get(s, 0) for s in {*ours, *theirs}], "which makes 3 pairs"),
            (lambda ours, theirs: sum(ours.values()) - sum(theirs.values()), "all the differences"),
            (lambda ours, theirs: ["a", "b", "c"], "all the differences"),
        ],
        result=sorted,
    ),
    Exercise(
        3,
        "not_lower",
        _interval_problem,
        [
            _verdict(lambda low, high, m: not low < -m, lambda low, high, m: not high >= -m),
            _verdict(lambda low, high, m: low + m >= 0, lambda low, high, m: high + m < 0),
        ],
        [
            (_verdict(lambda low, high, m: low > 0, lambda low, high, m: high < 0), "even its low end"),
            (_verdict(lambda low, high, m: low >= -m, lambda low, high, m: True), "that is no failure"),
            (_verdict(lambda low, high, m: low >= m, lambda low, high, m: high < m), "even its low end"),
            (_verdict(lambda low, high, m: (low + high) / 2 >= -m, lambda low, high, m: True), "you say"),
            (_verdict(lambda low, high, m: low >= -m, lambda low, high, m: high < 0), "that is no failure"),
            (_verdict(lambda low, high, m: low >= -5, lambda low, high, m: high < -5), "margin of 0.5"),
            (_verdict(lambda low, high, m: high >= -m, lambda low, high, m: True), "the data fit both"),
            (lambda low, high, m: low >= -m, "is no verdict"),
            (lambda low, high, m: "hold", "is no verdict"),
        ],
    ),
    Exercise(
        3,
        "kl_at",
        _kl_at_problem,
        [_kl_by_hand, lambda s, k, level: torch.tensor(np.interp([level], s, k))],
        [
            (lambda s, k, level: k[np.argmax(s >= level)], "The score was reached between two steps"),
            (lambda s, k, level: np.interp(level, k, s), "The score reaches"),
            (lambda s, k, level: level, "The score reaches"),
            (lambda s, k, level: k[np.abs(s - level).argmin()], "between two steps"),
            (lambda s, k, level: k[s <= level][-1], "The score reaches"),
            (lambda s, k, level: k.mean(), "The score reaches"),
            (lambda s, k, level: np.interp(level, s, np.sort(k)), "The score reaches"),
            (lambda s, k, level: np.interp(level, s[[0, -1]], k[[0, -1]]), "The score reaches"),
            (lambda s, k, level: k[s <= level], "one number"),
        ],
    ),
]
