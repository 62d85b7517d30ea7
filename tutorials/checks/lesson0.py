"""Checks of lesson 0, *Where to push a policy*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from checks import exercise, normal, saying, tensor
from proma_bench.testing import (
    assert_idempotent,
    assert_in_span,
    assert_orthogonal_to,
    assert_scale_invariant,
)

Projection = Callable[[Tensor, Tensor], Tensor]

RUNNING = torch.tensor([2.0, -0.5, 0.5], dtype=torch.float64)
SEQ_GRADS = torch.tensor([[1.0, 2.0, 0.0], [-1.0, 1.0, 3.0]], dtype=torch.float64)
CONTEXTS = torch.tensor([[1.0, 0.5, 0.0], [-0.2, 1.0, 0.7]], dtype=torch.float64)
A_STEP = "The result must be a step, a vector like the running gradient"


@exercise
def projection_of_one(answer: Projection) -> str:
    """A projection away from a single sequence gradient, ``seq_grads`` [1, n]."""
    answer = _step(answer, SEQ_GRADS[:1])
    for running, one in ((RUNNING, SEQ_GRADS[:1]), _drawn(1)):
        with saying("You removed something that is not along S, and that part of the old step was harmless"):
            assert_in_span(answer, running, one)
        with saying("Your answer depends on how long S is, and only its direction matters: divide by ⟨S, S⟩"):
            assert_scale_invariant(answer, running, one, scales=torch.tensor([3.0]))
        with saying("What is left still has a component along S, so the policy still moves on this sample"):
            assert_orthogonal_to(answer, running, one)
    return "What is left is perpendicular to S: to first order, the log-prob of this sample does not move."


@exercise
def projection_of_two(answer: Projection) -> str:
    """A projection away from two sequence gradients that are not perpendicular."""
    answer = _step(answer, SEQ_GRADS)
    perpendicular = torch.eye(3, dtype=torch.float64)[:2]
    with saying("Not even for two perpendicular gradients does your result stop moving both samples"):
        assert_orthogonal_to(answer, RUNNING, perpendicular)
    for running, two in ((RUNNING, SEQ_GRADS), _drawn(2)):
        with saying(
            "Right for perpendicular gradients only. When the second one is taken out, some of the first comes back: "
            "make the second perpendicular to the first before you use it"
        ):
            assert_orthogonal_to(answer, running, two)
        with saying("You removed something that moves neither sample"):
            assert_in_span(answer, running, two)
        with saying("Doing it a second time changes the result"):
            assert_idempotent(answer, running, two)
    return "Neither sample sees what is left of the old step."


def _step(answer: Projection, seq_grads: Tensor) -> Projection:
    """The answer, whose result must be a step."""

    def step(running: Tensor, seq_grads: Tensor) -> Tensor:
        return tensor(answer(running, seq_grads), tuple(running.shape), A_STEP)

    assert step(RUNNING, seq_grads).isfinite().all(), f"{A_STEP}; yours has infinite numbers in it."
    return step


def _drawn(sequences: int) -> tuple[Tensor, Tensor]:
    draw = normal(0)
    return draw(5), draw(sequences, 5)


@exercise
def quiet_step(answer: Tensor) -> str:
    """A step of length one in three dimensions that moves the policy in neither of two contexts."""
    step = tensor(answer, (3,), "A step has three numbers here")
    length = float(torch.linalg.vector_norm(step))
    assert abs(length - 1) < 1e-3, f"The step should have length 1, and yours has length {length:.3g}."
    moved = (CONTEXTS @ step).abs()
    worst = int(moved.argmax())
    assert moved[worst] < 1e-3, (
        f"Your step changes the logit in context {worst} by {float(moved[worst]):.3g}, so the policy moves there."
    )
    return "The policy is the same in both contexts. In three dimensions this step and its negative are all there is."
