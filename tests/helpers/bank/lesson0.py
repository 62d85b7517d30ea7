"""Answers to the exercises of lesson 0."""

from __future__ import annotations

import torch
from checks import lesson0
from exercises import Exercise
from torch import Tensor

from proma_bench import project


def one_by_one(running: Tensor, seq_grads: Tensor) -> Tensor:
    for S in seq_grads:
        running = running - (running @ S) / (S @ S) * S
    return running


def _in_place(running: Tensor, seq_grads: Tensor) -> Tensor:
    S = seq_grads[0]
    running -= (running @ S) / (S @ S) * S
    return running


EXERCISES = [
    Exercise(
        0,
        "projection_of_one",
        lambda draw: (draw(4), draw(1, 4)),
        [project, _in_place],
        [
            (lambda a, s: a - (a @ s[0]) * s[0], "divide by ⟨S, S⟩"),
            (lambda a, s: a - (a @ s[0]) / s[0].norm() * s[0], "divide by ⟨S, S⟩"),
            (lambda a, s: a, "still has a component along S"),
            (lambda a, s: 0 * a, "that part of the old step was harmless"),
            (lambda a, s: a - s[0], "Your answer depends on how long S is"),
            (lambda a, s: (a @ s[0]) / (s[0] @ s[0]), "must be a step"),
            (lambda a, s: (a @ s[0]) / (s[0] @ s[0]) * s[0], "harmless"),
            (lambda a, s: a - (a @ s[0]) / (a @ a) * s[0], "divide by ⟨S, S⟩"),
            (lambda a, s: a - a * s[0] / s[0], "NaN"),
        ],
    ),
    Exercise(
        0,
        "projection_of_two",
        lambda draw: (draw(5), draw(2, 5)),
        [project, lambda a, s: a - torch.linalg.pinv(s) @ (s @ a)],
        [
            (one_by_one, "some of the first comes back"),
            (_in_place, "Not even for two perpendicular gradients"),
            (lambda a, s: 0 * a, "removed something that moves neither"),
            (lambda a, s: a - project(a, s), "Not even for two perpendicular gradients"),
            (lambda a, s: a - s.T @ (s @ a), "Right for perpendicular gradients only"),
            (lambda a, s: one_by_one(one_by_one(a, s), s), "some of the first comes back"),
            (lambda a, s: project(a, s.sum(0, keepdim=True)), "Not even for two perpendicular gradients"),
            (lambda a, s: project(a, s)[:1], "must be a step"),
        ],
    ),
    Exercise(
        0,
        "quiet_step",
        None,
        [[-0.259259, 0.518519, -0.814815]],
        [
            (torch.linalg.cross(*lesson0.CONTEXTS), "should have length 1"),
            ([0.0, 0.0, 1.0], "logit in context 1 by 0.7"),
            ([1.0], "three numbers"),
            ([0.0, 0.0, 0.0], "should have length 1"),
            ([1.0, 0.0, 0.0], "logit in context 0"),
            (lesson0.CONTEXTS[0] / lesson0.CONTEXTS[0].norm(), "logit in context"),
            ("north", "three numbers"),
            (torch.ones(2, 3), "three numbers"),
            (None, "None"),
            ([float("nan")] * 3, "NaN"),
            (lesson0.CONTEXTS.sum(0) / lesson0.CONTEXTS.sum(0).norm(), "logit in context"),
        ],
    ),
]
