"""PROMA as mathematics: pure functions of tensors (arXiv 2601.10498, "Projected Microbatch Accumulation").

Notation, for one parameter tensor ``W`` and a microbatch of ``B`` sequences:

    S_i   sequence log-prob gradient, the gradient of log p(sequence i) with respect to W      [B, *W]
    a_i   advantage of sequence i; the microbatch policy gradient is g = sum_i a_i S_i         [B]
    A     running gradient, what earlier microbatches of this optimizer step accumulated       [*W]
    K, c  Gram matrix K_ij = <S_i, S_j> and overlaps c_i = <A, S_i>                            [B, B], [B]

One step of projected accumulation, with shrinkage sigma and the norm clamp rho:

    A  <-  A - rho sigma P_S A + g        rho = min(1, beta ||g|| / ||P_S A||)

``P_S A = sum_i w_i S_i`` lies in the span of the sequence gradients, so everything about it is known from ``K`` and
``c`` alone: ``||P_S A||^2 = w'Kw`` and ``||g||^2 = a'Ka``. The step is an ordinary policy gradient with *corrected
advantages* ``a - rho sigma w``, which is what :func:`corrected_advantages` returns and what the backward engine uses.
:func:`accumulate` is the same step written out on whole tensors.

Numerics. All arithmetic is float64. Gradients are normalised first, so their scales do not matter. A direction is
treated as dependent on the others when the matching eigenvalue of the *normalised* Gram matrix is small against
``rank_tolerance`` = 16 B eps, with eps that of the type in which the Gram matrix was computed (but see
`gradient_rank_tolerance`). Orthogonality to the
unit sequence gradients then holds to about ``sqrt(rank_tolerance) * ||A||`` in the worst case and to rounding when
nothing is nearly dependent. Nothing here waits for a GPU, the ``qr`` method excepted, which is there as the oracle.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Method = Literal["exact", "qr", "iterative", "ridge"]
METHODS: tuple[str, ...] = get_args(Method)

RIDGE = 0.01  # on the normalised Gram matrix; the constant of the author's published code (its non-quick path)
_SOLVES = 3  # of the proximal-point iteration in `_solve_shifted`


@dataclass(frozen=True)
class ProjectionConfig:
    """How the running gradient is projected. The defaults are those of the paper's run.

    method: ``exact`` (Gram pseudo-inverse), ``qr`` (the same projection by QR of the stacked gradients, the literal and
        expensive way, only where those are at hand), ``iterative`` (the paper's practical choice: subtract the
        component along one normalised sequence gradient after another) or ``ridge`` (the author's published
        non-quick path).
    sweeps: passes over the sequences of the iterative method.
    max_removed: the clamp beta; at most ``beta * ||g||`` is removed from the running gradient. None: no clamp.
    shrinkage: the factor sigma in [0, 1] on what is removed; 0 is plain accumulation.
    """

    method: Method = "iterative"
    sweeps: int = 2
    max_removed: float | None = 0.5
    shrinkage: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            near = difflib.get_close_matches(str(self.method), METHODS, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"unknown projection method {self.method!r}; did you mean {near!r}? ({', '.join(METHODS)})"
            )
        if isinstance(self.sweeps, bool) or not isinstance(self.sweeps, int) or self.sweeps < 1:
            raise ValueError(f"sweeps must be a whole number of at least 1, got {self.sweeps!r}")
        if self.max_removed is not None and not (math.isfinite(self.max_removed) and self.max_removed >= 0):
            raise ValueError(f"max_removed must be None (no clamp) or a finite number >= 0, got {self.max_removed!r}")
        if not 0 <= self.shrinkage <= 1:
            raise ValueError(f"shrinkage must lie between 0 (plain accumulation) and 1, got {self.shrinkage!r}")


class Removal(NamedTuple):
    """What one step takes out of the running gradient, in coefficients of the sequence gradients.

    coefficients: ``rho sigma w`` [*batch, B], so that ``sum_i coefficients_i S_i`` is removed.
    norm: its norm [*batch].
    clamped: whether the clamp was active (rho < 1) [*batch].
    """

    coefficients: Float[Tensor, "*batch B"]
    norm: Float[Tensor, "*batch"]
    clamped: Bool[Tensor, "*batch"]


# ------------------------------------------------------------------------------------------------ on whole tensors


def project(
    running: Float[Tensor, "*W"],
    seq_grads: Float[Tensor, "B *W"],
    *,
    method: Method = "exact",
    sweeps: int = 2,
) -> Float[Tensor, "*W"]:
    """``A - P_S A``: the running gradient without its component in the span of the sequence gradients. No clamp.

    Returns a new tensor of the type of ``running``. Raises ValueError for an unknown method or fewer than one sweep.
    """
    ProjectionConfig(method=method, sweeps=sweeps)
    return (running.double() - _component(running, seq_grads, method, sweeps)).to(running.dtype)


def accumulate(
    running: Float[Tensor, "*W"] | None,
    seq_grads: Float[Tensor, "B *W"],
    advantages: Float[Tensor, " B"],
    config: ProjectionConfig,
) -> Float[Tensor, "*W"]:
    """One literal step ``A - rho sigma P_S A + g``, clamp and all; without a running gradient, ``g``.

    Returns a new tensor of the type of ``running`` (of ``seq_grads`` where that is None).
    """
    gradient = torch.tensordot(advantages.double(), seq_grads.double(), dims=1)
    if running is None:
        return gradient.to(seq_grads.dtype)
    component = _component(running, seq_grads, config.method, config.sweeps)
    scale = config.shrinkage * clamp(_norm(component), removable(_norm(gradient), config))
    return (running.double() - scale * component + gradient).to(running.dtype)


def _component(running: Tensor, seq_grads: Tensor, method: str, sweeps: int) -> Float[Tensor, "*W"]:
    """``P_S A`` (for the inexact methods: what they take for it), in float64."""
    residual, size = _with_largest_one(running.double().flatten())
    units = _unit_rows(seq_grads.double().reshape(seq_grads.shape[0], running.numel()))
    tolerance = gradient_rank_tolerance(seq_grads)
    if method == "qr":
        basis = _orthonormal_basis(units, tolerance)
        return (size * ((residual @ basis) @ basis.T)).reshape(running.shape)
    gram = units @ units.T
    component = torch.zeros_like(residual)
    for _ in range(2 if method == "exact" else 1):  # "twice is enough": the second pass removes what rounding left
        weights = projection_weights(gram, units @ residual, method, sweeps, tolerance)
        component = component + weights @ units
        residual = residual - weights @ units
    return (size * component).reshape(running.shape)


def _unit_rows(rows: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    """Rows of norm one, zero rows left zero."""
    rows, _ = _with_largest_one(rows)
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)


def _norm(tensor: Tensor) -> Float[Tensor, ""]:
    scaled, size = _with_largest_one(tensor.flatten())
    return (torch.linalg.vector_norm(scaled) * size).squeeze()


def _with_largest_one(rows: Float[Tensor, "*B n"]) -> tuple[Float[Tensor, "*B n"], Float[Tensor, "*B 1"]]:
    """Rows divided by their largest entry, which keeps squares and sums in range, and that entry (one for zeros)."""
    if rows.shape[-1] == 0:
        return rows, rows.new_ones(*rows.shape[:-1], 1)
    largest = rows.abs().amax(dim=-1, keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    return rows / largest, largest


def _orthonormal_basis(rows: Float[Tensor, "B n"], tolerance: float) -> Float[Tensor, "n r"]:
    """Orthonormal columns that span the rows, by QR; columns of a dependent direction are zero."""
    q, r = torch.linalg.qr(rows.T)
    directions, singular, _ = torch.linalg.svd(r, full_matrices=False)
    return (q @ directions) * (singular.square() > tolerance)


# ------------------------------------------------------------------------------------------------ in B dimensions


def corrected_advantages(
    gram: Float[Tensor, "*batch B B"],
    overlap: Float[Tensor, "*batch B"],
    advantages: Float[Tensor, "*#batch B"],
    config: ProjectionConfig,
) -> Float[Tensor, "*batch B"]:
    """``u`` such that ``A + sum_i u_i S_i`` is one step of PROMA: the advantages less what the projection removes.

    Leading axes are independent problems (parameter tensors, say). Returns float64. Raises ValueError for the method
    ``qr``, which needs the gradients themselves and gives what ``exact`` gives here.
    """
    return advantages.double() - removal(gram, overlap, advantages, config).coefficients


def removal(
    gram: Float[Tensor, "*batch B B"],
    overlap: Float[Tensor, "*batch B"],
    advantages: Float[Tensor, "*#batch B"],
    config: ProjectionConfig,
) -> Removal:
    """The coefficients ``rho sigma w`` that one step removes, with their norm and the state of the clamp."""
    require_gram_method(config)
    weights = projection_weights(gram, overlap, config.method, config.sweeps)
    gram, advantages = gram.double(), advantages.double()
    norm, allowed = gram_norm(gram, weights), removable(gram_norm(gram, advantages), config)
    scale = config.shrinkage * clamp(norm, allowed)
    return Removal(scale.unsqueeze(-1) * weights, scale * norm, norm > allowed)


def require_gram_method(config: ProjectionConfig) -> None:
    """Raise ValueError for a method that the Gram matrix alone cannot serve."""
    if config.method == "qr":
        raise ValueError(
            "method 'qr' stacks the sequence gradients and is for `project` and `accumulate` only; "
            "use 'exact', the same projection from the Gram matrix"
        )


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


def gram_norm(gram: Tensor, coefficients: Tensor) -> Tensor:
    """``||sum_i x_i S_i|| = sqrt(x'Kx)``; rounding may leave the square slightly negative."""
    scaled, largest = _with_largest_one(coefficients)
    square = ((gram @ scaled.unsqueeze(-1)).squeeze(-1) * scaled).sum(dim=-1)
    return square.clamp_min(0.0).sqrt() * largest.squeeze(-1)


def removable(gradient_norm: Tensor, config: ProjectionConfig) -> Tensor:
    """The largest norm that may be removed beside a microbatch gradient of this norm; infinite without a clamp."""
    if config.max_removed is None:
        return torch.full_like(gradient_norm, torch.inf)
    return config.max_removed * gradient_norm


def clamp(component_norm: Tensor, allowed: Tensor) -> Tensor:
    """``rho`` in [0, 1]: the share of a component that may be removed. Zero where nothing is allowed."""
    return (allowed / component_norm.clamp_min(torch.finfo(component_norm.dtype).tiny)).clamp_max(1.0)
