"""The projection and one step of projected accumulation on whole tensors: slow, and readable as the paper."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from proma_bench.projection.config import ProjectionConfig, require_sequence_gradients
from proma_bench.projection.gram import clamp, removable, with_largest_one
from proma_bench.projection.methods import PROJECTION_METHODS
from proma_bench.projection.solve import gradient_rank_tolerance, projection_weights


def project(
    running: Float[Tensor, "*W"],
    seq_grads: Float[Tensor, "B *W"],
    *,
    method: str = "exact",
    sweeps: int = 2,
) -> Float[Tensor, "*W"]:
    """``A - P_S A``: the running gradient without its component in the span of the sequence gradients. No clamp.

    Args:
        running: the running gradient A.
        seq_grads: the sequence gradients S_i.
        method: a projection method, see `ProjectionConfig`.
        sweeps: passes of the iterative method.

    Returns:
        A new tensor of the type of ``running``.

    Raises:
        ValueError: the method is unknown or is ``intra``, or there are fewer than one sweep.
    """
    config = ProjectionConfig(method=method, sweeps=sweeps)
    require_sequence_gradients(config)
    return (running.double() - _component(running, seq_grads, config)).to(running.dtype)


def accumulate(
    running: Float[Tensor, "*W"] | None,
    seq_grads: Float[Tensor, "B *W"],
    advantages: Float[Tensor, " B"],
    config: ProjectionConfig,
) -> Float[Tensor, "*W"]:
    """One literal step ``A - rho sigma P_S A + g``, including the clamp; without a running gradient, ``g``.

    Args:
        running: the running gradient A; None in the first microbatch of an optimizer step.
        seq_grads: the sequence gradients S_i of this microbatch.
        advantages: their advantages a_i.
        config: how to project.

    Returns:
        A new tensor of the type of ``running`` (of ``seq_grads`` where that is None).

    Raises:
        ValueError: the method is ``intra``.
    """
    require_sequence_gradients(config)
    gradient: Tensor = torch.tensordot(advantages.double(), seq_grads.double(), dims=1)
    if running is None:
        return gradient.to(seq_grads.dtype)
    component = _component(running, seq_grads, config)
    scale = config.shrinkage * clamp(_norm(component), removable(_norm(gradient), config))
    return (running.double() - scale * component + gradient).to(running.dtype)


def _component(running: Tensor, seq_grads: Tensor, config: ProjectionConfig) -> Float[Tensor, "*W"]:
    """``P_S A`` (for the inexact methods: what they take for it), in float64."""
    residual, size = with_largest_one(running.double().flatten())
    units = _unit_rows(seq_grads.double().reshape(seq_grads.shape[0], running.numel()))
    tolerance = gradient_rank_tolerance(seq_grads)
    if PROJECTION_METHODS[config.method].takes == "gradients":
        basis = _orthonormal_basis(units, tolerance)
        return (size * ((residual @ basis) @ basis.T)).reshape(running.shape)
    gram = units @ units.T
    component = torch.zeros_like(residual)
    # "twice is enough": the second pass of an exact method removes what rounding left
    for _ in range(2 if PROJECTION_METHODS[config.method].is_exact else 1):
        weights = projection_weights(gram, units @ residual, config, tolerance)
        component = component + weights @ units
        residual = residual - weights @ units
    return (size * component).reshape(running.shape)


def _unit_rows(rows: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    """Rows of norm one; rows of zeros stay zero."""
    rows, _ = with_largest_one(rows)
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)


def _norm(tensor: Tensor) -> Float[Tensor, ""]:
    scaled, size = with_largest_one(tensor.flatten())
    result: Tensor = (torch.linalg.vector_norm(scaled) * size).squeeze()
    return result


def _orthonormal_basis(rows: Float[Tensor, "B n"], tolerance: float) -> Float[Tensor, "n r"]:
    """Orthonormal columns that span the rows, by QR; the column of a dependent direction is zero."""
    q, r = torch.linalg.qr(rows.T)
    directions, singular, _ = torch.linalg.svd(r, full_matrices=False)
    result: Tensor = (q @ directions) * (singular.square() > tolerance)
    return result
