"""Checks of lesson 2, *Exact, approximate, and what each costs*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from checks import exercise, explaining, normal, number, saying, tensor
from proma_bench.testing import assert_orthogonal_to, check_projection


def _layer(seed: int, sequences: int) -> tuple[Tensor, Tensor]:
    """A running gradient, and sequence gradients of norm one that are somewhat alike."""
    draw = normal(seed)
    return draw(6), torch.nn.functional.normalize(draw(sequences, 6) + 0.7, dim=1)


@exercise
def sweep(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """One sweep over the Gram matrix: weights before it to weights after it."""
    for seed, sequences in ((0, 4), (1, 3)):
        running, seq_grads = _layer(seed, sequences)
        gram, overlap = seq_grads @ seq_grads.T, seq_grads @ running
        weights = torch.zeros(sequences, dtype=torch.float64)
        for sweep_number in ("first", "second"):
            found = answer(gram, overlap, weights)
            result = tensor(found, (sequences,), "There is one weight for each sequence")
            literal = _literal_sweep(running, seq_grads, weights)
            jacobi = weights + overlap - gram @ weights
            assert not torch.allclose(result, jacobi), (
                "You subtract all components as they were before the sweep (that is Jacobi's method). One after "
                "another means that each sequence sees what the ones before it have already removed: solve with "
                "tril(K)."
            )
            exact = torch.linalg.solve(gram, overlap)
            assert not torch.allclose(result, exact), "That is the exact answer; one sweep is an approximation of it."
            error = float((result - literal).norm())
            assert error < 1e-9, (
                f"In the {sweep_number} sweep your weights differ from the literal loop's by {error:.3g}. In the row "
                "of sequence i, weights of earlier sequences are new, those of later ones old: "
                "tril(K) w_new = c − triu(K, 1) w_old."
            )
            weights = literal
    return "One triangular solve in B dimensions did what a loop over whole gradients does."


def _literal_sweep(running: Tensor, seq_grads: Tensor, weights: Tensor) -> Tensor:
    """One after another, on the gradients themselves."""
    weights = weights.clone()
    left = running - weights @ seq_grads
    for i, gradient in enumerate(seq_grads):
        component = left @ gradient
        weights[i] += component
        left = left - component * gradient
    return weights


@exercise
def removed_norm(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """The norm of what is removed, from the Gram matrix and the weights alone."""
    draw = normal(0)
    for sequences in (4, 7):
        seq_grads, weights = draw(sequences, 9), draw(sequences)
        result = number(answer(seq_grads @ seq_grads.T, weights), "A norm is one number")
        truth = float((weights @ seq_grads).norm())
        assert abs(result - float(weights.norm())) > 1e-9, (
            "That is the norm of the weights. The sequence gradients are not perpendicular: they do not add up like "
            "that."
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
        found = answer(rows @ rows.T, rows @ running.flatten())
        w = tensor(found, (len(rows),), "There is one weight for each sequence")
        return running - (w @ rows).reshape(running.shape)

    running, seq_grads = _layer(0, 4)
    with saying("Not even with four independent sequences is the rest orthogonal to them"):
        assert_orthogonal_to(projection, running, seq_grads)
    twice = torch.cat([seq_grads, seq_grads[:1], torch.zeros_like(seq_grads[:1])])
    with explaining(  # torch's complaint about a singular matrix
        RuntimeError,
        "A sample that occurs twice, or a gradient of zero, makes K singular, and there is no inverse. Cut off the "
        "directions that are not there: a pseudo-inverse",
    ):
        projection(running, twice)
    with saying("With a sample that occurs twice and a gradient of zero, the rest is no longer orthogonal"):
        assert_orthogonal_to(projection, running, twice)
    with saying("Hypothesis found an input that breaks it"):
        check_projection(projection, examples=50)
    return "It holds on repeated, zero, tiny and huge gradients, as Hypothesis drew them."
