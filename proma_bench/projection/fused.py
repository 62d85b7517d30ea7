"""The step in ``B`` dimensions as one kernel, where Triton is installed and tensors are on a GPU."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.methods import PROJECTION_METHODS
from proma_bench.projection.solve import GaussSeidel, IteratedTikhonov, rank_tolerance

LARGEST = 64
"""Sequences; matrices of more do not stay in registers."""


class Settings(NamedTuple):
    """Those of `fused_removal`."""

    sweeps: int
    solves: int
    shift: float
    max_removed: float | None
    shrinkage: float


def fused_settings(gram: Tensor, advantages: Tensor, config: ProjectionConfig) -> Settings | None:
    """With which settings `fused_removal` serves this method; None where it does not.

    It gives no gradients of its own.
    """
    is_constant = not (torch.is_grad_enabled() and (gram.requires_grad or advantages.requires_grad))
    fits = gram.ndim == 3 and advantages.ndim <= 2 and 1 <= gram.shape[-1] <= LARGEST
    if not (is_constant and fits and has_kernel(gram)):
        return None
    solver = PROJECTION_METHODS[config.method].solve
    if isinstance(solver, GaussSeidel):
        return Settings(config.sweeps, 0, 0.0, config.max_removed, config.shrinkage)
    if isinstance(solver, IteratedTikhonov):
        shift = rank_tolerance(gram.shape[-1], gram.dtype) if solver.shift is None else solver.shift
        return Settings(0, solver.solves, shift, config.max_removed, config.shrinkage)
    return None


def has_kernel(gram: Tensor) -> bool:
    """Whether Triton is there, and can serve the device."""
    return gram.is_cuda and works_on(gram.device)


@functools.cache
def works_on(device: torch.device) -> bool:
    """Try the kernel once."""
    one = torch.ones(1, 1, 1, device=device)
    return works(lambda: fused_removal(one, one[0], one[0, 0], 1, 0, 0.0, None, 1.0), device)


def works(trial: Callable[[], object], device: torch.device) -> bool:
    """Whether a kernel can be used: Triton may be installed where no compiler is, or not know the device."""
    if find_spec("triton") is None:
        return False
    try:
        trial()
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        warnings.warn(
            f"a kernel of PROMA cannot be used on {device} ({type(error).__name__}: {reason}); torch computes instead",
            stacklevel=3,
        )
        return False
    return True


_SCHEMA = (
    "(Tensor gram, Tensor overlap, Tensor advantages, int sweeps, int solves, float shift, float? max_removed, "
    "float shrinkage) -> (Tensor, Tensor, Tensor)"
)


@torch.library.custom_op("proma_bench::fused_removal", mutates_args=(), schema=_SCHEMA)
def fused_removal(
    gram: Tensor,
    overlap: Tensor,
    advantages: Tensor,
    sweeps: int,
    solves: int,
    shift: float,
    max_removed: float | None,
    shrinkage: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `proma_bench.projection.gram.removal` returns, for [P, B, B], [P, B] and advantages [B] or [P, B].

    Args:
        gram: K.
        overlap: c.
        advantages: a.
        sweeps: of Gauss-Seidel; 0 takes Cholesky.
        solves: with the Cholesky factor of the normalised Gram matrix plus ``shift``.
        shift: see ``solves``.
        max_removed: the clamp; None is none.
        shrinkage: the share of the component that is removed.

    Returns:
        Coefficients [P, B] and norm [P] of what is removed, in float64, and whether it was clamped [P].
    """
    from proma_bench.projection.fused_kernel import removal_kernel

    problems, sequences = overlap.shape
    coefficients, norm, clamped = _empty(overlap)
    info, gram, overlap, advantages = torch.finfo(gram.dtype), *(x.contiguous() for x in (gram, overlap, advantages))
    removal_kernel[(problems,)](
        *(gram, overlap, advantages, coefficients, norm, clamped, sequences),
        0 if advantages.numel() == sequences else sequences,  # the same for all problems, or not
        SWEEPS=sweeps,
        SOLVES=solves,
        SHIFT=shift,
        NEGLIGIBLE=info.tiny / info.eps,
        MAX_REMOVED=-1.0 if max_removed is None else max_removed,
        SHRINKAGE=shrinkage,
        SIZE=max(2, 1 << (sequences - 1).bit_length()),
    )
    return coefficients, norm, clamped


@fused_removal.register_fake
def _(gram: Tensor, overlap: Tensor, *settings: object) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(overlap)


def _empty(overlap: Float[Tensor, "P B"]) -> tuple[Float[Tensor, "P B"], Float[Tensor, " P"], Bool[Tensor, " P"]]:
    vector = overlap.new_empty(overlap.shape[0], dtype=torch.float64)
    return torch.empty_like(overlap, dtype=torch.float64), vector, torch.empty_like(vector, dtype=torch.bool)
