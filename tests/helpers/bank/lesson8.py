"""Answers to the exercises of lesson 8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from exercises import Exercise
from torch import Tensor

from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.gram import corrected_advantages

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]


def _problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    running, seq_grads = draw(3, 8), draw(3, 4, 8)
    return seq_grads @ seq_grads.mT, (seq_grads @ running.unsqueeze(-1)).squeeze(-1), draw(3, 4)


def _weights(K: Tensor, c: Tensor) -> Tensor:
    return (torch.linalg.pinv(K, rtol=1e-12, hermitian=True) @ c.unsqueeze(-1)).squeeze(-1)


def _one_tensor_at_a_time(rule: Rule) -> Rule:
    return lambda K, c, a: torch.stack([rule(*one) for one in zip(K, c, a, strict=True)])


def _sizes(K: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    norms = K.diagonal(dim1=-2, dim2=-1).sqrt()
    safe = torch.where(norms > 0, norms, torch.inf)
    return c / safe, 1 / safe


def _removing(change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Rule:
    """a minus what is made of the sizes of the parts, 1 / norms, and overlaps; over B."""

    def rule(K: Tensor, c: Tensor, a: Tensor) -> Tensor:
        sizes, inverse = _sizes(K, c)
        return a - change(sizes, inverse, c) / c.shape[-1]

    return rule


def _by_loop(K: Tensor, c: Tensor, a: Tensor) -> Tensor:
    B = a.shape[-1]
    norms = torch.stack([K[..., i, i].sqrt() for i in range(B)], dim=-1)
    for i in range(B):
        j = (i + 1) % B
        part = c[..., j] / (norms[..., i] * norms[..., j] * B)
        a[..., i] -= torch.where((norms[..., i] > 0) & (norms[..., j] > 0), part, 0.0)
    return a


Method = dict[float, tuple[float, dict[int, float]]]


def _methods(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    def method(rates: list[float], seeds: list[int]) -> Method:
        kls = draw(len(rates)).abs().tolist()
        return {
            rate: (kl, dict(zip(seeds, draw(len(seeds)).tolist(), strict=True)))
            for rate, kl in zip(rates, kls, strict=True)
        }

    return method([0.01, 0.02, 0.04], [0, 1, 2, 5]), method([0.005, 0.02, 0.03], [2, 1, 3, 0]), float(draw(1).abs())


def _near(method: Method, target: float) -> dict[int, float]:
    return min(method.values(), key=lambda run: abs(run[0] - target))[1]


def _between(one: dict[int, float], other: dict[int, float]) -> list[float]:
    return [one[seed] - other[seed] for seed in one if seed in other]


EXERCISES = [
    Exercise(
        8,
        "exact",
        _problem,
        [
            lambda K, c, a: corrected_advantages(K, c, a, ProjectionConfig("exact", max_removed=None)),
            _one_tensor_at_a_time(lambda K, c, a: a.sub_(torch.linalg.pinv(K, hermitian=True, rtol=1e-11) @ c)),
        ],
        [
            (lambda K, c, a: a, "plain accumulation"),
            (lambda K, c, a: a + _weights(K, c), "The sign"),
            (lambda K, c, a: a - c, "Those are the overlaps"),
            (lambda K, c, a: a - torch.linalg.solve(K, c.unsqueeze(-1)).squeeze(-1), "pseudo-inverse"),
            (lambda K, c, a: a - c / K.diagonal(dim1=-2, dim2=-1), "what is left of A"),
            (lambda K, c, a: a - torch.linalg.pinv(K) @ c, "raises"),
            (lambda K, c, a: -_weights(K, c), "what is left of A"),
            (lambda K, c, a: a - _weights(K[:1], c), "Each tensor has its own"),
            (lambda K, c, a: (a - _weights(K, c)).sum(0), "one coefficient for each sequence"),
            (lambda K, c, a: a - 0.5 * _weights(K, c), "what is left of A"),
            (
                lambda K, c, a: corrected_advantages(K, c, a, ProjectionConfig("exact", max_removed=0.5)),
                "what is left of A",
            ),
        ],
        asks_more=True,
    ),
    Exercise(
        8,
        "shuffled",
        _problem,
        [_by_loop, _removing(lambda sizes, inverse, c: torch.cat([sizes[..., 1:], sizes[..., :1]], -1) * inverse)],
        [
            (lambda K, c, a: a, "Nothing is removed"),
            (_removing(lambda sizes, inverse, c: sizes * inverse), "This is `averaged` itself"),
            (_removing(lambda sizes, inverse, c: sizes.roll(1, -1) * inverse), "not of i − 1"),
            (_removing(lambda sizes, inverse, c: c.shape[-1] * sizes.roll(-1, -1) * inverse), "the sum of the parts"),
            (_removing(lambda sizes, inverse, c: -sizes.roll(-1, -1) * inverse), "The sign"),
            (_removing(lambda sizes, inverse, c: c.roll(-1, -1)), "Overlaps are no sizes"),
            (_removing(lambda sizes, inverse, c: (sizes * inverse).roll(-1, -1)), "as much must go"),
            (_removing(lambda sizes, inverse, c: sizes.roll(-1, 0) * inverse), ""),
            (_removing(lambda sizes, inverse, c: sizes.flip(-1) * inverse), "as much must go"),
            (_removing(lambda sizes, inverse, c: (sizes.roll(-1, -1) * inverse).sum(-1)), ""),
            (
                lambda K, c, a: a - (c / (n := K.diagonal(dim1=-2, dim2=-1).sqrt())).roll(-1, -1) / n / c.shape[-1],
                "NaN",
            ),
        ],
        asks_more=True,
    ),
    Exercise(
        8,
        "fair",
        _methods,
        [
            lambda mine, theirs, target: np.array(_between(_near(mine, target), _near(theirs, target))),
            lambda mine, theirs, target: tuple(_between(_near(mine, target), _near(theirs, target))),
        ],
        [
            (lambda mine, theirs, t: _between(mine[0.005][1], theirs[0.005][1]), "at one learning rate"),
            (lambda mine, theirs, t: _between(_near(theirs, t), _near(mine, t)), "The sign"),
            (
                lambda mine, theirs, t: [_near(mine, t)[s] - _near(theirs, t)[s] for s in _near(mine, t)],
                "one side only",
            ),
            (lambda mine, theirs, t: np.mean(_between(_near(mine, t), _near(theirs, t))), "Return the differences"),
            (lambda mine, theirs, t: sum(_near(mine, t).values()) - sum(_near(theirs, t).values()), "the differences"),
            (
                lambda mine, theirs, t: [
                    a - b
                    for a, b in zip(list(_near(mine, t).values())[:2], list(_near(theirs, t).values())[:2], strict=True)
                ],
                "pair by seed",
            ),
            (lambda mine, theirs, t: _between(mine[max(mine)][1], theirs[max(theirs)][1]), "whose local KL is nearest"),
            (lambda mine, theirs, t: _between(_near(mine, t), theirs[0.005][1]), "at one learning rate"),
            (lambda mine, theirs, t: [abs(d) for d in _between(_near(mine, t), _near(theirs, t))], "The sign"),
            (lambda mine, theirs, t: dict(enumerate(_between(_near(mine, t), _near(theirs, t)))), "the differences"),
        ],
        result=sorted,
    ),
]
