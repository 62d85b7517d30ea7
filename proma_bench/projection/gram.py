"""One step of projected accumulation in ``B`` dimensions: from Gram matrix and overlaps to corrected advantages."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from proma_bench.projection.config import ProjectionConfig, require_gram_method
from proma_bench.projection.fused import fused_removal, fused_settings
from proma_bench.projection.solve import projection_weights
from proma_bench.projection.updates import Update


class Removal(NamedTuple):
    """What one step takes out of the running gradient, in coefficients of the sequence gradients.

    Attributes:
        coefficients: ``rho sigma w``, so that ``sum_i coefficients_i S_i`` is removed.
        norm: the norm of what is removed.
        clamped: whether the clamp was active (rho < 1).
    """

    coefficients: Float[Tensor, "*batch B"]
    norm: Float[Tensor, "*batch"]
    clamped: Bool[Tensor, "*batch"]


def corrected_advantages(
    gram: Float[Tensor, "*batch B B"],
    overlap: Float[Tensor, "*batch B"],
    advantages: Float[Tensor, "*#batch B"],
    config: ProjectionConfig,
) -> Float[Tensor, "*batch B"]:
    """``u`` such that ``A + sum_i u_i S_i`` is one step of PROMA: the advantages less what the projection removes.

    Args:
        gram: K_ij = <S_i, S_j>. Leading axes are independent problems, such as parameter tensors.
        overlap: c_i = <A, S_i>.
        advantages: a_i.
        config: how to project.

    Returns:
        The corrected advantages, in float64.

    Raises:
        ValueError: the method is ``qr``, which needs the gradients themselves and gives what ``exact`` gives here, or
            ``intra``.
    """
    return update(gram, overlap, advantages, config).coefficients


def update(
    gram: Float[Tensor, "*batch B B"],
    overlap: Float[Tensor, "*batch B"],
    advantages: Float[Tensor, "*#batch B"],
    config: ProjectionConfig,
) -> Update:
    """The same as an `Update`, which knows whether the clamp was active."""
    removed = removal(gram, overlap, advantages, config)
    return Update(advantages.double() - removed.coefficients, clamped=removed.clamped)


def removal(
    gram: Float[Tensor, "*batch B B"],
    overlap: Float[Tensor, "*batch B"],
    advantages: Float[Tensor, "*#batch B"],
    config: ProjectionConfig,
) -> Removal:
    """What one step removes, with its norm and the state of the clamp; arguments as in `corrected_advantages`."""
    require_gram_method(config)
    if (settings := fused_settings(gram, advantages, config)) is not None:
        return Removal(*fused_removal(gram, overlap, advantages, *settings))
    weights = projection_weights(gram, overlap, config)
    gram, advantages = gram.double(), advantages.double()
    norm, allowed = gram_norm(gram, weights), removable(gram_norm(gram, advantages), config)
    scale = config.shrinkage * clamp(norm, allowed)
    return Removal(scale.unsqueeze(-1) * weights, scale * norm, norm > allowed)


def gram_norm(gram: Float[Tensor, "*batch B B"], coefficients: Float[Tensor, "*#batch B"]) -> Float[Tensor, "*batch"]:
    """``||sum_i x_i S_i|| = sqrt(x'Kx)``; rounding may leave the square slightly negative."""
    scaled, largest = with_largest_one(coefficients)
    square = ((gram @ scaled.unsqueeze(-1)).squeeze(-1) * scaled).sum(dim=-1)
    return square.clamp_min(0.0).sqrt() * largest.squeeze(-1)


def removable(gradient_norm: Tensor, config: ProjectionConfig) -> Tensor:
    """The largest norm that may be removed beside a microbatch gradient of this norm; infinite without a clamp."""
    if config.max_removed is None:
        return torch.full_like(gradient_norm, torch.inf)
    return config.max_removed * gradient_norm


def clamp(component_norm: Tensor, allowed: Tensor) -> Tensor:
    """``rho`` in [0, 1]: the share of a component that may be removed; zero where nothing is allowed."""
    return (allowed / component_norm.clamp_min(torch.finfo(component_norm.dtype).tiny)).clamp_max(1.0)


def with_largest_one(rows: Float[Tensor, "*B n"]) -> tuple[Float[Tensor, "*B n"], Float[Tensor, "*B 1"]]:
    """Rows divided by their largest entry, which keeps squares and sums in range, and that entry (one for zeros)."""
    if rows.shape[-1] == 0:
        return rows, rows.new_ones(*rows.shape[:-1], 1)
    largest = rows.abs().amax(dim=-1, keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    return rows / largest, largest
