"""Answers to the exercises of lesson 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from exercises import Exercise
from torch import Tensor, nn


def _units(draw: Callable[..., Tensor], sequences: int) -> Tensor:
    return nn.functional.normalize(draw(sequences, 8) + 0.5, dim=1)


def _sweep_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    S = _units(draw, 5)
    return S @ S.T, S @ draw(8), draw(5)


def _singular_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    S = _units(draw, 3)
    S = torch.cat([S, S[:1], torch.zeros(1, 8)])
    return S @ S.T, S @ draw(8)


def _sweep_in_place(K: Tensor, c: Tensor, w: Tensor) -> Tensor:
    for i in range(len(w)):
        w[i] += c[i] - K[i] @ w
    return w


EXERCISES = [
    Exercise(
        2,
        "sweep",
        _sweep_problem,
        [_sweep_in_place, lambda K, c, w: torch.linalg.solve(K.tril(), c - K.triu(1) @ w)],
        [
            (lambda K, c, w: w + c - K @ w, "Jacobi"),
            (lambda K, c, w: torch.linalg.solve(K, c), "one sweep is an approximation"),
            (lambda K, c, w: torch.linalg.solve(K.tril(), c), "In the second sweep"),
            (lambda K, c, w: c, "Jacobi"),
            (lambda K, c, w: torch.linalg.solve(K.triu(), c - K.tril(-1) @ w), "earlier sequences are new"),
            (lambda K, c, w: w, "earlier sequences are new"),
            (lambda K, c, w: _sweep_in_place(K, c, _sweep_in_place(K, c, w)), "In the first sweep"),
            (lambda K, c, w: torch.linalg.solve(K.tril(), (c - K.triu(1) @ w).unsqueeze(1)), "one weight for each"),
        ],
    ),
    Exercise(
        2,
        "removed_norm",
        lambda draw: ((S := draw(4, 8)) @ S.T, draw(4)),
        [
            lambda K, w: float(torch.einsum("i,ij,j", w, K, w)) ** 0.5,
            lambda K, w: torch.linalg.vector_norm(torch.linalg.cholesky(K).T @ w),
        ],
        [
            (lambda K, w: w.norm(), "norm of the weights"),
            (lambda K, w: w @ K @ w, "the square of the norm"),
            (lambda K, w: K @ w, "one number"),
            (lambda K, w: (K @ w).norm(), "Your norm is"),
            (lambda K, w: (w * w @ K.diag()).sqrt(), "Your norm is"),
            (lambda K, w: K.diag().sqrt() @ w, "Your norm is"),
            (lambda K, w: -((w @ K @ w).sqrt()), "Your norm is"),
            (lambda K, w: (w @ K @ w).sqrt() / len(w), "Your norm is"),
        ],
    ),
    Exercise(
        2,
        "weights",
        _singular_problem,
        [
            lambda K, c: torch.linalg.lstsq(K, c, rcond=1e-12, driver="gelsd").solution,
            lambda K, c: torch.linalg.pinv(K, rtol=1e-11) @ c,
        ],
        [
            (torch.linalg.solve, "there is no inverse"),
            (lambda K, c: torch.linalg.inv(K) @ c, "there is no inverse"),
            (lambda K, c: c, "Not even with four independent"),
            (lambda K, c: c / K.diag(), "Not even with four independent"),
            (lambda K, c: torch.linalg.solve(K + 0.01 * torch.eye(len(c)), c), "Not even with four independent"),
            (lambda K, c: torch.linalg.pinv(K, rtol=0.3) @ c, "Not even with four independent"),
            (lambda K, c: torch.linalg.pinv(K, rtol=0.1) @ c, "rest"),
            (lambda K, c: K, "one weight for each sequence"),
            (lambda K, c: torch.linalg.pinv(K, rtol=0.0) @ c, ""),
        ],
        at_most=8,
        asks_more=True,
    ),
]
