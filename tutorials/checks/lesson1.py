"""Checks of lesson 1, *A bandit you can solve on paper*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from checks import exercise, normal, number, tensor

PROBS = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)


@exercise
def fisher_matrix(answer: Callable[[Tensor], Tensor]) -> str:
    """The Fisher matrix of a softmax policy as a function of its probabilities [n]."""
    for probs in (PROBS, normal(0)(6).softmax(0)):
        n = len(probs)
        fisher = tensor(answer(probs), (n, n), f"For {n} actions it is {n} x {n}")
        rows = float(fisher.sum(dim=1).abs().max())
        assert rows < 1e-9, (
            f"Adding the same number to every logit does not change the policy, so each row must sum to 0; one of "
            f"yours sums to {rows:.3g}. Is the probability subtracted in S?"
        )
        sizes = torch.stack([torch.trace(fisher), 1 - probs.square().sum()])
        assert (fisher - fisher.T).abs().max() < 1e-9, "A mean of S Sᵀ is symmetric, and yours is not."
        truth = torch.diag(probs) - torch.outer(probs, probs)
        assert (fisher - truth).abs().max() < 1e-9, (
            f"The mean is over the policy's own actions: weigh each S Sᵀ with its probability (the diagonal should sum "
            f"to {sizes[1]:.3g}, yours sums to {sizes[0]:.3g})."
        )
    return "Symmetric, blind to a constant added to all logits, and each action counts as often as it is taken."


@exercise
def corrected_by_hand(answer: float) -> str:
    """The corrected advantage of the newcomer of the exercise, which is 2."""
    answer = number(answer, "A corrected advantage is one number")
    assert answer != 1, "That is the advantage itself. Nothing of A has been taken out yet."
    assert answer != 0, "The overlap of A and S is negative, so taking it out *adds* S. Mind the sign."
    assert answer != 1.375, "You subtracted the overlap; w is the overlap divided by ⟨S, S⟩."
    assert abs(answer - 2) < 1e-6, f"You say {answer:g}. Compute ⟨A, S⟩, then ⟨S, S⟩; w is their quotient, u = a − w."
    return "w = −1: the old step would have made the newcomer's action less likely, and that is undone first."


@exercise
def step_of_kl(answer: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """The multiple of a direction that has a given KL, by the quadratic form."""
    draw = normal(0)
    for probs, nats in ((PROBS, 1e-4), (PROBS, 1e-2), (draw(6).softmax(0), 3e-3)):
        direction, fisher = draw(len(probs)), torch.diag(probs) - torch.outer(probs, probs)
        step = tensor(answer(direction, fisher, nats), direction.shape, "A step is a vector of logits")
        along = torch.dot(step, direction) / (step.norm() * direction.norm())
        assert along > 1 - 1e-9, "The step should point along the direction that is given."
        form = float(0.5 * step @ fisher @ step)
        assert abs(form / nats - 0.5) > 1e-6, f"Its quadratic form is {form:.3g}: half of what is asked. Mind the ½."
        assert abs(form / nats - 1) < 1e-6, (
            f"Asked for {nats:g} nats, your step has {form:.3g} by the quadratic form. It grows with the square of the "
            "length."
        )
    return "This is how a trust-region method chooses the length of its step."
