"""Answers to the exercises of lesson 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from exercises import Exercise, integers
from torch import Tensor


def _softmax(draw: Callable[..., Tensor]) -> Tensor:
    return draw(int(integers(draw, 4, 1)) + 3).softmax(0)


def _kl_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    p = _softmax(draw)
    return draw(len(p)), torch.diag(p) - torch.outer(p, p), float(draw(1).abs() / 100)


EXERCISES = [
    Exercise(
        1,
        "fisher_matrix",
        lambda draw: (_softmax(draw),),
        [lambda p: torch.diag(p) - torch.outer(p, p), lambda p: torch.func.jacrev(lambda x: x.softmax(0))(p.log())],
        [
            (torch.diag, "Is the probability subtracted in S?"),
            (lambda p: (torch.eye(len(p)) - p).T @ (torch.eye(len(p)) - p) / len(p), "own actions"),
            (lambda p: torch.outer(p, p), "each row must sum to 0"),
            (lambda p: p, "4 x 4"),
            (lambda p: torch.outer(p, p) - torch.diag(p), "own actions"),
            (lambda p: torch.diag(p * (1 - p)), "each row must sum to 0"),
            (lambda p: torch.eye(len(p)) - p, "symmetric"),
            (lambda p: (torch.diag(p) - torch.outer(p, p)).tolist()[:2], "4 x 4"),
        ],
    ),
    Exercise(
        1,
        "corrected_by_hand",
        None,
        [2, torch.tensor([2.0])],
        [
            (1, "advantage itself"),
            (0, "Mind the sign"),
            (1.375, "divided by ⟨S, S⟩"),
            (7, "u = a − w"),
            (-1, "u = a − w"),
            (0.625, "u = a − w"),
            ("two", "one number"),
            (None, "None"),
            ([1, 2], "one number"),
            (1.99, "u = a − w"),
            (float("nan"), "NaN"),
        ],
    ),
    Exercise(
        1,
        "step_of_kl",
        _kl_problem,
        [
            lambda d, f, nats: d * (2 * nats) ** 0.5 / (d @ f @ d) ** 0.5,
            lambda d, f, nats: d.mul_((nats / (0.5 * d @ f @ d)).sqrt()),
        ],
        [
            (lambda d, f, nats: d * (nats / (d @ f @ d)).sqrt(), "Mind the ½"),
            (lambda d, f, nats: d * nats, "square of the length"),
            (lambda d, f, nats: d * 2 * nats / (d @ f @ d), "square of the length"),
            (lambda d, f, nats: -d, "along the direction"),
            (lambda d, f, nats: d / d.norm() * (2 * nats) ** 0.5, "square of the length"),
            (lambda d, f, nats: (2 * nats / (d @ f @ d)).sqrt(), "A step is a vector"),
            (lambda d, f, nats: f @ d, "along the direction"),
            (lambda d, f, nats: d * (2 * nats / (d * d @ f.diag())).sqrt(), "square of the length"),
        ],
    ),
]
