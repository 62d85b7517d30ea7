"""From a Gram matrix and overlaps to weights: the linear algebra of the projection, in ``B`` dimensions.

``P_S A = sum_i w_i S_i`` with ``w = K^+ c``, or what the iterative and the ridge method take for it. All of it is
float64, on normalised gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = 0.01  # on the normalised Gram matrix; the constant of the author's published code (its non-quick path)
_SOLVES = 3  # of the proximal-point iteration in `_solve_shifted`


class Factorised(NamedTuple):
    """A Gram matrix of unit gradients, made ready to turn overlaps into weights.

    triangle: its lower triangle (iterative), or the Cholesky factor of it with a shift on the diagonal (exact, ridge).
    rest: what an iteration multiplies the last weights with: the strictly upper triangle, or the whole matrix.
    """

    triangle: Float[Tensor, "*batch B B"]
    rest: Float[Tensor, "*batch B B"]


def projection_weights(
    gram: Float[Tensor, "*batch B B"],
    overlap: Float[Tensor, "*batch B"],
    method: str,
    sweeps: int,
    tolerance: float | None = None,
) -> Float[Tensor, "*batch B"]:
    """``w`` with ``P_S A = sum_i w_i S_i``, in float64; zero for a sequence whose gradient is zero.

    ``tolerance`` is the rank cut of the exact method, `rank_tolerance` of the Gram matrix if not given.
    """
    tolerance = rank_tolerance(gram.shape[-1], gram.dtype) if tolerance is None else tolerance
    units, norms = normalise(gram)
    column = (overlap.double() / norms).unsqueeze(-1)
    return unit_weights(factorise(units, method, tolerance), column, method, sweeps).squeeze(-1) / norms


def factorise(units: Float[Tensor, "*batch B B"], method: str, tolerance: float) -> Factorised:
    """Prepare the Gram matrix of unit gradients for `unit_weights`.

    A matrix that is not positive semi-definite up to the shift is not a Gram matrix; nothing is removed for it.
    """
    if method == "iterative":
        return Factorised(units.tril(), units.triu(1))
    identity = torch.eye(units.shape[-1], dtype=units.dtype, device=units.device)
    triangle, failed = torch.linalg.cholesky_ex(units + (RIDGE if method == "ridge" else tolerance) * identity)
    nothing = torch.where(identity > 0, torch.inf, 0.0)
    return Factorised(torch.where((failed == 0)[..., None, None], triangle, nothing), units)


def unit_weights(
    gram: Factorised, overlap: Float[Tensor, "*batch B 1"], method: str, sweeps: int
) -> Float[Tensor, "*batch B 1"]:
    """The weights of the unit gradients from their overlaps, as columns."""
    if method == "iterative":
        return _gauss_seidel(gram, overlap, sweeps)
    return _iterated_tikhonov(gram, overlap, solves=1 if method == "ridge" else _SOLVES)


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
        return 16 * seq_grads.shape[0] * torch.finfo(torch.float32).eps ** 1.5
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


def _gauss_seidel(gram: Factorised, overlap: Tensor, sweeps: int) -> Tensor:
    """Sequential subtraction of the components along unit gradients, as triangular solves.

    Subtracting <A, s_i> s_i for i = 1..B is one Gauss-Seidel sweep on K w = c: with L the lower triangle (diagonal
    included) and U the rest, ``L w_new = c - U w_old``.
    """
    weights = torch.linalg.solve_triangular(gram.triangle, overlap, upper=False)
    for _ in range(sweeps - 1):
        weights = torch.linalg.solve_triangular(gram.triangle, overlap - gram.rest @ weights, upper=False)
    return weights


def _iterated_tikhonov(gram: Factorised, overlap: Tensor, solves: int) -> Tensor:
    """``(K + shift I)^-1 c`` and, with more solves, proximal-point steps from there towards ``K^+ c``.

    After n solves the part of the solution along an eigenvector with eigenvalue L is right up to the factor
    ``(shift / (L + shift))^n``: to rounding where L is above the shift, next to nothing where it is below. That is a
    pseudo-inverse with a rank cut at the shift, and unlike an eigendecomposition it does not wait for a GPU.
    What rounding puts into the overlaps along a direction below the shift is magnified by up to solves / shift, in
    weights that cancel in ``sum_i w_i S_i``: compute overlaps as precisely as the Gram matrix, from the same gradients.
    """
    weights = torch.cholesky_solve(overlap, gram.triangle)
    for _ in range(solves - 1):
        weights = weights + torch.cholesky_solve(overlap - gram.rest @ weights, gram.triangle)
    return weights
