"""Checks of lesson 0, *Where to push a policy*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from checks import exercise, saying
from proma_bench.testing import (
    assert_finite,
    assert_idempotent,
    assert_in_span,
    assert_orthogonal_to,
    assert_scale_invariant,
)

Projection = Callable[[Tensor, Tensor], Tensor]

RUNNING = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
SEQ_GRADS = torch.tensor([[1.0, 2.0, 0.0], [-1.0, 1.0, 3.0]], dtype=torch.float64)
CONTEXTS = torch.tensor([[1.0, 0.5, 0.0], [-0.2, 1.0, 0.7]], dtype=torch.float64)


@exercise
def projection_of_one(answer: Projection) -> str:
    """A projection away from a single sequence gradient, ``seq_grads`` [1, n]."""
    one = SEQ_GRADS[:1]
    with saying("The result must be a step, a vector like the running gradient"):
        assert_finite(answer, RUNNING, one)
    with saying("You removed something that is not along S, and that part of the old step was harmless"):
        assert_in_span(answer, RUNNING, one)
    with saying("Your answer depends on how long S is, and only its direction matters: divide by ⟨S, S⟩"):
        assert_scale_invariant(answer, RUNNING, one, scales=torch.tensor([3.0]))
    with saying("What is left still has a component along S, so the policy still moves on this sample"):
        assert_orthogonal_to(answer, RUNNING, one)
    return "What is left is perpendicular to S: to first order, the log-prob of this sample does not move."


@exercise
def projection_of_two(answer: Projection) -> str:
    """A projection away from two sequence gradients that are not perpendicular."""
    with saying("The result must be a step, a vector like the running gradient"):
        assert_finite(answer, RUNNING, SEQ_GRADS)
    perpendicular = torch.eye(3, dtype=torch.float64)[:2]
    with saying("Not even for two perpendicular gradients does your result stop moving both samples"):
        assert_orthogonal_to(answer, RUNNING, perpendicular)
    with saying(
        "Right for perpendicular gradients only. When the second one is taken out, some of the first comes back: "
        "make the second perpendicular to the first before you use it"
    ):
        assert_orthogonal_to(answer, RUNNING, SEQ_GRADS)
    with saying("You removed something that moves neither sample"):
        assert_in_span(answer, RUNNING, SEQ_GRADS)
    with saying("Doing it a second time changes the result"):
        assert_idempotent(answer, RUNNING, SEQ_GRADS)
    return "Neither sample sees what is left of the old step."


@exercise
def quiet_step(answer: Tensor) -> str:
    """A step of length one in three dimensions that moves the policy in neither of two contexts."""
    step = torch.as_tensor(answer, dtype=torch.float64)
    assert step.shape == (3,), f"A step has three numbers here; yours has shape {tuple(step.shape)}."
    length = float(torch.linalg.vector_norm(step))
    assert abs(length - 1) < 1e-3, f"The step should have length 1, and yours has length {length:.3g}."
    moved = (CONTEXTS @ step).abs()
    worst = int(moved.argmax())
    assert moved[worst] < 1e-3, (
        f"Your step changes the logit in context {worst} by {float(moved[worst]):.3g}, so the policy moves there."
    )
    return "The policy is the same in both contexts. In three dimensions this step and its negative are all there is."
