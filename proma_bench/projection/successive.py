"""Virtual microbatches: several successive microbatches of PROMA from one backward pass.

The running gradient is always ``A_0 + sum_k u_k S_k``, a combination of what there was and of the sequence gradients
so far. So its overlaps with later sequences follow from the overlaps with ``A_0`` and the Gram matrix of *all* the
sequences, ``<A, S_i> = c_i + sum_k K_ik u_k``, and the recursion over microbatches runs in coefficients alone. The
algorithm's microbatch need not be the memory's: one backward pass over ``N`` sequences does what ``N / size`` do.
`proma_bench.projection.recursion` has the same for any update rule; this is faster, as it knows what a projection is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.gram import clamp, gram_norm, removable, removal
from proma_bench.projection.methods import PROJECTION_METHODS
from proma_bench.projection.solve import normalise, rank_tolerance


class Removals(NamedTuple):
    """What M successive microbatches take out of the running gradients of P tensors.

    Attributes:
        coefficients: of the N sequences; ``sum_i (advantages_i - coefficients_i) S_i`` is what all of them add.
        norm: of what each microbatch removes.
        clamped: whether its clamp was active.
        overlap: of each sequence with the running gradient that its microbatch found.
    """

    coefficients: Float[Tensor, "P N"]
    norm: Float[Tensor, "P M"]
    clamped: Bool[Tensor, "P M"]
    overlap: Float[Tensor, "P N"]


def successive_removals(
    gram: Float[Tensor, "P N N"],
    overlap: Float[Tensor, "P N"],
    advantages: Float[Tensor, " N"],
    size: int,
    config: ProjectionConfig,
) -> Removals:
    """``ceil(N / size)`` steps of PROMA in coefficient space, for P tensors at once.

    Args:
        gram: of all N sequences, in order. Sums over the earlier microbatches are taken in its type, everything within
            a microbatch in float64.
        overlap: with the running gradients before the first microbatch; zero where there is none yet, so that the
            first step removes nothing, as it must.
        advantages: of all N sequences.
        size: sequences per microbatch.
        config: how to project.

    Returns:
        What all of the steps remove.
    """
    sequences = overlap.shape[1]
    if sequences <= size:
        removed = removal(gram, overlap, advantages, config)
        return Removals(removed.coefficients, removed.norm[:, None], removed.clamped[:, None], overlap.double())
    if padding := -sequences % size:  # sequences with zero gradients, which change nothing
        gram, overlap = F.pad(gram, (0, padding, 0, padding)), F.pad(overlap, (0, padding))
        advantages = F.pad(advantages, (0, padding))
    blocks = _diagonal_blocks(gram, size)
    units, norms = normalise(blocks)
    solver = PROJECTION_METHODS[config.method].solve
    prepared = solver.prepare(units, rank_tolerance(size, gram.dtype))
    allowed = removable(gram_norm(blocks.double(), advantages.double().view(-1, size)), config)
    parts = zip(*(part.unbind(1) for part in (units, norms.unsqueeze(-1), allowed, *prepared)), strict=True)

    overlap, added = overlap.unsqueeze(-1).clone(), advantages.expand_as(overlap).unsqueeze(-1).clone()
    found = []  # norms of the components in the span
    for number, (unit, norm, most, *own_prepared) in enumerate(parts):
        own = slice(number * size, (number + 1) * size)
        # the overlaps with the running gradient as this microbatch finds it
        here = overlap[:, own].baddbmm_(gram[:, own, : own.start], added[:, : own.start]).double() / norm
        weights = solver.weights(tuple(own_prepared), here, config)
        found.append((weights * (unit @ weights)).sum(dim=(1, 2)).clamp_min_(0.0).sqrt_())
        share = config.shrinkage * clamp(found[-1], most)
        added[:, own] -= share.view(-1, 1, 1) * weights / norm
    component = torch.stack(found, dim=1)
    share = config.shrinkage * clamp(component, allowed)
    taken, met = (advantages - added.squeeze(-1))[:, :sequences], overlap.squeeze(-1)[:, :sequences]
    return Removals(taken, share * component, component > allowed, met)


def square_growth(
    gram: Float[Tensor, "P N N"], advantages: Float[Tensor, " N"], removed: Removals, size: int
) -> Float[Tensor, "P M"]:
    """By how much each microbatch changes the squared norm of the running gradient: ``2 u'c + u'Ku``."""
    change, overlap = advantages.double() - removed.coefficients, removed.overlap
    if padding := -gram.shape[1] % size:
        gram = F.pad(gram, (0, padding, 0, padding))
        change, overlap = F.pad(change, (0, padding)), F.pad(overlap, (0, padding))
    change, overlap = change.unflatten(1, (-1, size)), overlap.unflatten(1, (-1, size))  # type: ignore[no-untyped-call]
    blocks = _diagonal_blocks(gram, size).double()
    result: Tensor = 2 * (change * overlap).sum(dim=-1) + gram_norm(blocks, change).square()
    return result


def _diagonal_blocks(gram: Float[Tensor, "P N N"], size: int) -> Float[Tensor, "P M s s"]:
    """The Gram matrices of the microbatches."""
    blocks = gram.unflatten(1, (-1, size)).unflatten(3, (-1, size))  # type: ignore[no-untyped-call]
    result: Tensor = blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1)
    return result
