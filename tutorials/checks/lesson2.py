"""Checks of lesson 2, *Exact, approximate, and why it is the same price*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from checks import exercise, saying
from proma_bench.testing import assert_orthogonal_to, check_projection

_generator = torch.Generator().manual_seed(0)
SEQ_GRADS = torch.randn(4, 6, generator=_generator, dtype=torch.float64) + 0.7
SEQ_GRADS = SEQ_GRADS / SEQ_GRADS.norm(dim=1, keepdim=True)
RUNNING = torch.randn(6, generator=_generator, dtype=torch.float64)
GRAM, OVERLAP = SEQ_GRADS @ SEQ_GRADS.T, SEQ_GRADS @ RUNNING


@exercise
def sweep(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """One sweep over the Gram matrix: weights before it to weights after it."""
    weights = torch.zeros(4, dtype=torch.float64)
    for number in ("first", "second"):
        result, literal = answer(GRAM, OVERLAP, weights), _literal_sweep(weights)
        assert result.shape == (4,), f"There is one weight for each sequence; yours have shape {tuple(result.shape)}."
        jacobi = weights + OVERLAP - GRAM @ weights
        assert not torch.allclose(result, jacobi), (
            "You subtract all components as they were before the sweep (that is Jacobi's method). One after another "
            "means that each sequence sees what the ones before it have already removed: solve with tril(K)."
        )
        exact = torch.linalg.solve(GRAM, OVERLAP)
        assert not torch.allclose(result, exact), "That is the exact answer; one sweep is an approximation of it."
        error = float((result - literal).norm())
        assert error < 1e-9, (
            f"In the {number} sweep your weights differ from the literal loop's by {error:.3g}. In the row of sequence "
            "i, weights of earlier sequences are new, those of later ones old: tril(K) w_new = c − triu(K, 1) w_old."
        )
        weights = literal
    return "One triangular solve in B dimensions did what a loop over whole gradients does."


def _literal_sweep(weights: Tensor) -> Tensor:
    """One after another, on the gradients themselves."""
    weights = weights.clone()
    left = RUNNING - weights @ SEQ_GRADS
    for i, gradient in enumerate(SEQ_GRADS):
        component = left @ gradient
        weights[i] += component
        left = left - component * gradient
    return weights


@exercise
def removed_norm(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """The norm of what is removed, from the Gram matrix and the weights alone."""
    weights = torch.tensor([0.5, -1.0, 2.0, 0.25], dtype=torch.float64)
    result, truth = float(answer(GRAM, weights)), float((weights @ SEQ_GRADS).norm())
    assert abs(result - float(weights.norm())) > 1e-9, (
        "That is the norm of the weights. The sequence gradients are not perpendicular: they do not add up like that."
    )
    assert abs(result - truth**2) > 1e-9, "That is the square of the norm."
    assert abs(result - truth) < 1e-9, f"Your norm is {result:.4g}; that of the sum of w_i S_i is {truth:.4g}."
    return "The clamp is free: no gradient has been touched."


@exercise
def weights(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Weights from a Gram matrix that may be singular."""

    def projection(running: Tensor, seq_grads: Tensor) -> Tensor:
        rows = seq_grads.reshape(len(seq_grads), -1)
        sizes = rows.norm(dim=1, keepdim=True)
        rows = rows / torch.where(sizes > 0, sizes, 1.0)
        return running - (answer(rows @ rows.T, rows @ running.flatten()) @ rows).reshape(running.shape)

    with saying("Not even with four independent sequences is the rest orthogonal to them"):
        assert_orthogonal_to(projection, RUNNING, SEQ_GRADS)
    twice = torch.cat([SEQ_GRADS, SEQ_GRADS[:1], torch.zeros_like(SEQ_GRADS[:1])])
    try:
        projection(RUNNING, twice)
    except RuntimeError as error:  # torch's complaint about a singular matrix
        raise AssertionError(
            "A sample that occurs twice, or a gradient of zero, makes K singular, and there is no inverse: "
            f"{type(error).__name__}. Cut off the directions that are not there: a pseudo-inverse."
        ) from None
    with saying("With a sample that occurs twice and a gradient of zero, the rest is no longer orthogonal"):
        assert_orthogonal_to(projection, RUNNING, twice)
    with saying("Hypothesis found an input that breaks it"):
        check_projection(projection, examples=50)
    return "It holds on repeated, zero, tiny and huge gradients, as Hypothesis drew them."
