"""The intra method in a backward pass: what a microbatch adds to the weight of a linear layer.

The rows of all linear uses of a tensor are joined, because it is one tensor. Its other uses (an embedding that is tied
to the head) have no activations, so that their part is added as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from proma_bench.backward.factors import OuterProducts, RaggedProducts, SequenceGrads
from proma_bench.backward.measure import plain_gradient
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.factored import dominant_part


class IntraGradient(NamedTuple):
    """What M successive microbatches add, with the norms of the part that has factors and of what was removed."""

    gradient: Float[Tensor, "*W"]
    removed_norm: Float[Tensor, " M"]
    norm: Float[Tensor, " M"]


def intra_gradient(
    uses: Sequence[SequenceGrads],
    advantages: Float[Tensor, " B"],
    shape: torch.Size,
    size: int,
    config: ProjectionConfig,
) -> IntraGradient | None:
    """The sum over successive microbatches of ``size`` sequences; None for a tensor without linear uses."""
    linear = [use for use in uses if isinstance(use, OuterProducts | RaggedProducts)]
    if not linear:
        return None
    gradient = plain_gradient([use for use in uses if use not in linear], advantages, shape)
    removed, norms = [], []
    for start in range(0, advantages.shape[0], size):
        pieces = [use.rows(start, min(start + size, advantages.shape[0])) for use in linear]
        output_grads, inputs, ids = (torch.cat(piece) for piece in zip(*pieces, strict=True))
        own = _weighted_products(output_grads, inputs, advantages[ids].unsqueeze(1))
        left, core, right = dominant_part(own, output_grads, inputs, config.rank)
        removed.append(config.shrinkage * torch.linalg.vector_norm(core))
        norms.append(torch.linalg.vector_norm(own))
        gradient += own.addmm_(left @ core, right.T, alpha=-config.shrinkage)
    return IntraGradient(gradient, torch.stack(removed).double(), torch.stack(norms).double())


def _weighted_products(
    output_grads: Float[Tensor, "N o"], inputs: Float[Tensor, "N i"], weights: Float[Tensor, "N 1"]
) -> Float[Tensor, "o i"]:
    """``sum_t weights_t G_t (x) X_t``; the narrower side is weighted, as the other may be as wide as a vocabulary."""
    if output_grads.shape[1] < inputs.shape[1]:
        return (output_grads * weights).T @ inputs
    return output_grads.T @ (inputs * weights)
