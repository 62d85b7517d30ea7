"""Virtual microbatches: several successive microbatches of PROMA from one backward pass.

The running gradient is always ``A_0 + sum_k u_k S_k``, a combination of what there was and of the sequence gradients
so far. So its overlaps with later sequences follow from the overlaps with ``A_0`` and the Gram matrix of *all* the
sequences, ``<A, S_i> = c_i + sum_k K_ik u_k``, and the recursion over microbatches runs in coefficients alone. The
algorithm's microbatch need not be the memory's: one backward pass over ``N`` sequences does what ``N / size`` do.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from proma_bench.projection import Factorised, ProjectionConfig, clamp, factorise, gram_norm, projection_weights


class Removals(NamedTuple):
    """What M successive microbatches take out of the running gradients of P tensors. In float64.

    coefficients: of the N sequences; ``sum_i (advantages_i - coefficients_i) S_i`` is what all of them add.
    norm, clamped: the norm of what each microbatch removes, and whether its clamp was active.
    growth: by how much each microbatch changes the squared norm of the running gradient.
    """

    coefficients: Float[Tensor, "P N"]
    norm: Float[Tensor, "P M"]
    clamped: Bool[Tensor, "P M"]
    growth: Float[Tensor, "P M"]


def successive_removals(
    gram: Float[Tensor, "P N N"],
    overlap: Float[Tensor, "P N"],
    advantages: Float[Tensor, " N"],
    size: int,
    config: ProjectionConfig,
) -> Removals:
    """``ceil(N / size)`` steps of PROMA in coefficient space, for P tensors at once.

    gram, overlap: of all N sequences, in order, and with the running gradients before the first microbatch (zero
    where there is none yet: then the first step removes nothing, as it must).
    """
    tensors, sequences = overlap.shape
    padding = -sequences % size  # sequences with zero gradients, which change nothing
    gram, overlap = F.pad(gram, (0, padding, 0, padding)), F.pad(overlap.double(), (0, padding))
    advantages = F.pad(advantages.double(), (0, padding))
    factorised = factorise(_diagonal_blocks(gram, size), config.method)
    gram = gram.double()
    blocks = _diagonal_blocks(gram, size)
    gradient_norms = gram_norm(blocks, advantages.view(-1, size))

    added = torch.zeros_like(overlap)
    norms, clamped = [], []
    for number, start in enumerate(range(0, sequences, size)):
        block = slice(start, start + size)
        # now with the running gradient as this microbatch finds it
        overlap[:, block] += _times(gram[:, block, :start], added[:, :start])
        own = Factorised(*(part[:, number] for part in factorised))
        weights = projection_weights(own, overlap[:, block], config.method, config.sweeps)
        norm = gram_norm(blocks[:, number], weights)
        scale, is_clamped = clamp(norm, gradient_norms[:, number], config)
        added[:, block] = advantages[block] - scale.unsqueeze(1) * weights
        norms.append(scale * norm)
        clamped.append(is_clamped)
    change, overlaps = added.view(tensors, -1, size), overlap.view(tensors, -1, size)
    growth = 2 * (change * overlaps).sum(dim=-1) + gram_norm(blocks, change).square()
    return Removals((advantages - added)[:, :sequences], torch.stack(norms, 1), torch.stack(clamped, 1), growth)


def _diagonal_blocks(gram: Float[Tensor, "P N N"], size: int) -> Float[Tensor, "P M s s"]:
    """The Gram matrices of the microbatches."""
    blocks = gram.unflatten(1, (-1, size)).unflatten(3, (-1, size))
    return blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1)


def _times(matrix: Float[Tensor, "P a b"], vector: Float[Tensor, "P b"]) -> Float[Tensor, "P a"]:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
