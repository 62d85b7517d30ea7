"""From a Gram matrix and overlaps to weights: the linear algebra of the projection, in ``B`` dimensions.

``P_S A = sum_i w_i S_i`` with ``w = K^+ c``, or what the iterative and the ridge method take for it. All of it is
float64, on normalised gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.methods import PROJECTION_METHODS

RIDGE_SHIFT = 0.01  # on the normalised Gram matrix; the constant of the author's published code (its non-quick path)


@runtime_checkable
class Solver(Protocol):
    """From the Gram matrix of unit gradients to weights, in two steps: the first does not need the overlaps."""

    def prepare(self, units: Float[Tensor, "*batch B B"], tolerance: float) -> tuple[Tensor, ...]:
        """Make the Gram matrix ready for `weights`.

        Args:
            units: K of the unit gradients, with ones on the diagonal.
            tolerance: eigenvalues below it are rounding, see `rank_tolerance`.

        Returns:
            Whatever `weights` needs, as tensors with the leading axes of ``units``.
        """

    def weights(
        self, prepared: tuple[Tensor, ...], overlap: Float[Tensor, "*batch B 1"], config: ProjectionConfig
    ) -> Float[Tensor, "*batch B 1"]:
        """The weights of the unit gradients from their overlaps, as columns."""


def projection_weights(
    gram: Float[Tensor, "*batch B B"],
    overlap: Float[Tensor, "*batch B"],
    config: ProjectionConfig,
    tolerance: float | None = None,
) -> Float[Tensor, "*batch B"]:
    """``w`` with ``P_S A = sum_i w_i S_i``, in float64; zero for a sequence whose gradient is zero.

    Args:
        gram: K.
        overlap: c.
        config: the projection method and its settings.
        tolerance: the rank cut of the exact method; None is the `rank_tolerance` of the Gram matrix.

    Returns:
        The weights w.
    """
    tolerance = rank_tolerance(gram.shape[-1], gram.dtype) if tolerance is None else tolerance
    solver = PROJECTION_METHODS[config.method].solve
    units, norms = normalise(gram)
    column = (overlap.double() / norms).unsqueeze(-1)
    return solver.weights(solver.prepare(units, tolerance), column, config).squeeze(-1) / norms


# ------------------------------------------------------------------------------------------------- the solvers


class GaussSeidel:
    """Sequential subtraction of the components along unit gradients, as triangular solves.

    Subtracting <A, s_i> s_i for i = 1..B is one Gauss-Seidel sweep on K w = c: with L the lower triangle (diagonal
    included) and U the rest, ``L w_new = c - U w_old``.
    """

    def prepare(self, units: Tensor, tolerance: float) -> tuple[Tensor, ...]:
        """L and U."""
        return units.tril(), units.triu(1)

    def weights(self, prepared: tuple[Tensor, ...], overlap: Tensor, config: ProjectionConfig) -> Tensor:
        """``config.sweeps`` sweeps, from zero weights."""
        lower, rest = prepared
        weights: Tensor = torch.linalg.solve_triangular(lower, overlap, upper=False)
        for _ in range(config.sweeps - 1):
            weights = torch.linalg.solve_triangular(lower, overlap - rest @ weights, upper=False)
        return weights


@dataclass(frozen=True)
class IteratedTikhonov:
    """``(K + shift I)^-1 c`` and, with more solves, proximal-point steps from there towards ``K^+ c``.

    After n solves the part of the solution along an eigenvector with eigenvalue L is right up to the factor
    ``(shift / (L + shift))^n``: to rounding where L is above the shift, next to nothing where it is below. That is a
    pseudo-inverse with a rank cut at the shift, and unlike an eigendecomposition it does not wait for a GPU.
    What rounding puts into the overlaps along a direction below the shift is magnified by up to solves / shift, in
    weights that cancel in ``sum_i w_i S_i``: compute overlaps as precisely as the Gram matrix, from the same gradients.

    Attributes:
        solves: how many.
        shift: on the diagonal; None is the rank tolerance.
    """

    solves: int
    shift: float | None = None

    def prepare(self, units: Tensor, tolerance: float) -> tuple[Tensor, ...]:
        """The Cholesky factor of K + shift I, and K.

        A matrix that is not positive semi-definite up to the shift is not a Gram matrix; nothing is removed for it.
        """
        identity = torch.eye(units.shape[-1], dtype=units.dtype, device=units.device)
        shift = tolerance if self.shift is None else self.shift
        triangle, failed = torch.linalg.cholesky_ex(units + shift * identity)
        nothing = torch.where(identity > 0, torch.inf, 0.0)
        return torch.where((failed == 0)[..., None, None], triangle, nothing), units

    def weights(self, prepared: tuple[Tensor, ...], overlap: Tensor, config: ProjectionConfig) -> Tensor:
        """The solution after all solves."""
        triangle, units = prepared
        weights = torch.cholesky_solve(overlap, triangle)
        for _ in range(self.solves - 1):
            weights = weights + torch.cholesky_solve(overlap - units @ weights, triangle)
        return weights


ITERATIVE, EXACT, RIDGE = GaussSeidel(), IteratedTikhonov(solves=3), IteratedTikhonov(solves=1, shift=RIDGE_SHIFT)


# ----------------------------------------------------------------------------------------------- normalisation


def rank_tolerance(sequences: int, dtype: torch.dtype) -> float:
    """Eigenvalues of the normalised Gram matrix below this are rounding: 16 B eps."""
    return 16 * sequences * torch.finfo(dtype).eps


def gradient_rank_tolerance(seq_grads: Tensor) -> float:
    """The same for a float64 Gram matrix of these gradients.

    Float32 gradients that should be parallel differ by their rounding, an eigenvalue of about eps^2 = 1e-14, which is
    just where float64's own cut lies; 16 B eps^1.5 is well clear of it. Coarser types are far above that cut: what
    they round to counts at face value.
    """
    if seq_grads.dtype == torch.float32:
        result: float = 16 * seq_grads.shape[0] * torch.finfo(torch.float32).eps ** 1.5
        return result
    return rank_tolerance(seq_grads.shape[0], torch.float64)


def normalise(gram: Float[Tensor, "*batch B B"]) -> tuple[Float[Tensor, "*batch B B"], Float[Tensor, "*batch B"]]:
    """The Gram matrix of the unit gradients, and the norms; a zero gradient has norm infinity.

    A squared norm that has lost digits to underflow counts as zero. Zero gradients keep a one on the diagonal, which
    makes every system below solvable and gives them weight zero.
    """
    info = torch.finfo(gram.dtype)
    squares = gram.diagonal(dim1=-2, dim2=-1).double()
    norms = torch.where(squares > info.tiny / info.eps, squares, torch.inf).sqrt()
    units = (gram.double() / norms.unsqueeze(-1) / norms.unsqueeze(-2)).clamp(-1.0, 1.0)
    units.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    return units, norms
