"""Answers to the exercises of lesson 7."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from checks import lesson7
from exercises import Exercise, Several, integers
from torch import Tensor

from bank.lesson0 import one_by_one
from proma_bench import project


def _svd_projection(running: Tensor, seq_grads: Tensor) -> Tensor:
    rows = seq_grads.reshape(len(seq_grads), -1)
    norms = rows.norm(dim=1, keepdim=True)
    units = rows / torch.where(norms > 0, norms, 1.0)
    values, vectors = torch.linalg.eigh(units @ units.T)
    kept = values > 1e-12
    basis = (vectors[:, kept] / values[kept].sqrt()).T @ units
    running -= (basis.T @ (basis @ running.flatten())).reshape(running.shape)
    return running


def _mixed(running: Tensor, seq_grads: Tensor) -> Tensor:
    mixture = torch.randn(len(seq_grads), len(seq_grads), dtype=seq_grads.dtype)
    return torch.tensordot(mixture, seq_grads, dims=1)


def _compares(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., bool]:
    return lambda fn, a, s: torch.allclose(fn(a, s), fn(a, change(a, s)))


def _projection_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    S = draw(3, 6)
    return draw(6), torch.cat([S, S[:1], torch.zeros(1, 6), 1e-9 * draw(1, 6)])


def _promise_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    fns = [project, lesson7.one_sweep, lesson7.first_alone, lesson7.all_at_once]
    shape = (6,) if draw(1) > 0 else (2, 4)
    return fns[int(integers(draw, 4, 1))], draw(*shape), draw(3, *shape)


EXERCISES = [
    Exercise(
        7,
        "own_projection",
        _projection_problem,
        [_svd_projection],
        [
            (one_by_one, "promises are broken"),
            (lesson7.first_alone, "Something is left that a sequence still sees"),
            (lesson7.all_at_once, "Something is left"),
            (lambda a, s: 0 * a, "It removes something that no sequence"),
            (lambda a, s: a, "Something is left"),
            (lambda a, s: a - project(a, s), "Something is left"),
            (lambda a, s: project(a, s).flatten()[:1], "does not return a finite tensor"),
            (lambda a, s: 2 * project(a, s), "overshoots"),
            (lambda a, s: project(a, s, method="iterative", sweeps=2), "Something is left"),
        ],
        at_most=6,
        asks_more=True,
    ),
    Exercise(
        7,
        "order_matters",
        None,
        [
            Several(([1.0, 2.0], [[1.0, 0.0], [1.0, 1.0]])),
            Several((torch.tensor([0.5, -1.0]), torch.tensor([[2.0, 1.0], [0.0, 3.0]]))),
        ],
        [
            (Several(([1.0, 2.0], [[1.0, 0.0], [0.0, 1.0]])), "Perpendicular gradients"),
            (Several(([1.0, 2.0], [[1.0, 1.0], [-2.0, -2.0]])), "Parallel gradients"),
            (Several(([1.0, 2.0], [[1.0, 1.0], [1.0, 1.0]])), "Parallel gradients"),
            (Several(([0.0, 0.0], [[1.0, 0.0], [1.0, 1.0]])), "of this running gradient"),
            (Several(([1.0], [[1.0]])), "Two sequences and two parameters"),
            (Several("ab"), "Two sequences and two parameters"),
            (Several(([1.0, 2.0], [1.0, 1.0])), "Two sequences and two parameters"),
            (Several((None, None)), "None"),
            (Several(([1.0, 2.0], [[0.0, 0.0], [1.0, 1.0]])), "A gradient of zero"),
            (Several(([1.0, 2.0, 3.0], [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])), "Two sequences and two parameters"),
        ],
    ),
    Exercise(
        7,
        "span_invariant",
        _promise_problem,
        [
            _compares(_mixed),
            lambda fn, a, s: (
                (fn(a, s) - fn(a, torch.linalg.svd(s.flatten(1), full_matrices=False)[2].view_as(s))).norm() < 1e-6
            ),
        ],
        [
            (lambda fn, a, s: True, "you let it pass"),
            (lambda fn, a, s: False, "You accuse the exact projection"),
            (_compares(lambda a, s: s), "you let it pass"),
            (_compares(lambda a, s: s.flip(0)), "you let it pass"),
            (_compares(lambda a, s: 3 * s), "you let it pass"),
            (_compares(lambda a, s: -s), "you let it pass"),
            (_compares(lambda a, s: s * torch.arange(1, len(s) + 1).view(-1, *[1] * a.ndim)), "you let it pass"),
            (_compares(lambda a, s: torch.cat([s, s[:1]])), "you let it pass"),
            (_compares(lambda a, s: torch.randn_like(s)), "You accuse"),
            (_compares(lambda a, s: s[:1]), "You accuse"),
            (_compares(lambda a, s: s.roll(1, 0)), "you let it pass"),
            (lambda fn, a, s: torch.equal(fn(a, s), fn(a, _mixed(a, s))), "leave room for rounding"),
        ],
    ),
]
