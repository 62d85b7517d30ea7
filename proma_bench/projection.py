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
:func:`accumulate` is the same step written out on whole tensors. :func:`intra` is another method altogether.

Numerics. All arithmetic is float64. Gradients are normalised first, so their scales do not matter. A direction is
treated as dependent on the others when the matching eigenvalue of the *normalised* Gram matrix is small against
``rank_tolerance`` = 16 B eps, with eps that of the type in which the Gram matrix was computed (but see
`gradient_rank_tolerance`; both are in `solve`). Orthogonality to the unit sequence gradients then holds to about
``sqrt(rank_tolerance) * ||A||`` in the worst case and to rounding when nothing is nearly dependent. Nothing here waits
for a GPU, except ``qr``, which is there as the oracle, and ``intra``, which also keeps to the type of its inputs.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from proma_bench.solve import gradient_rank_tolerance, projection_weights

Method = Literal["exact", "qr", "iterative", "ridge", "intra"]
METHODS: tuple[str, ...] = get_args(Method)

_SPARE_DIRECTIONS, _PASSES = 16, 4  # of the subspace iteration in `dominant_directions`


@dataclass(frozen=True)
class ProjectionConfig:
    """How the running gradient is projected. The defaults are those of the paper's run.

    method: ``exact`` (Gram pseudo-inverse), ``qr`` (the same projection by QR of the stacked gradients, the literal and
        expensive way, only where those are at hand), ``iterative`` (the paper's practical choice: subtract the
        component along one normalised sequence gradient after another), ``ridge`` (the author's published non-quick
        path), or ``intra``, which leaves the running gradient alone and takes out of each microbatch's gradient what
        lies in its dominant subspaces: for weights of linear layers in a backward pass, see `intra`.
    sweeps: passes over the sequences of the iterative method.
    max_removed: the clamp beta; at most ``beta * ||g||`` is removed from the running gradient. None: no clamp. The
        intra method has no use for it: what it removes is a part of ``g`` itself.
    shrinkage: the factor sigma in [0, 1] on what is removed; 0 is plain accumulation.
    rank: dominant directions on either side of a weight, of the intra method; 0 is plain accumulation.
    """

    method: Method = "iterative"
    sweeps: int = 2
    max_removed: float | None = 0.5
    shrinkage: float = 1.0
    rank: int = 4

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
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 0:
            raise ValueError(f"rank must be a whole number of at least 0, got {self.rank!r}")


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

    Returns a new tensor of the type of ``running``. Raises ValueError for an unknown method, for ``intra``, and for
    fewer than one sweep.
    """
    _refuse_intra(ProjectionConfig(method=method, sweeps=sweeps))
    return (running.double() - _component(running, seq_grads, method, sweeps)).to(running.dtype)


def accumulate(
    running: Float[Tensor, "*W"] | None,
    seq_grads: Float[Tensor, "B *W"],
    advantages: Float[Tensor, " B"],
    config: ProjectionConfig,
) -> Float[Tensor, "*W"]:
    """One literal step ``A - rho sigma P_S A + g``, clamp and all; without a running gradient, ``g``.

    Returns a new tensor of the type of ``running`` (of ``seq_grads`` where that is None). Raises ValueError for the
    method ``intra``.
    """
    _refuse_intra(config)
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

    Leading axes are independent problems (parameter tensors, say). Returns float64. Raises ValueError for the methods
    ``qr``, which needs the gradients themselves and gives what ``exact`` gives here, and ``intra``.
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
    _refuse_intra(config)
    require_backward_method(config)


def require_backward_method(config: ProjectionConfig) -> None:
    """Raise ValueError for a method that needs the sequence gradients written out, which no backward pass has."""
    if config.method == "qr":
        raise ValueError(
            "method 'qr' stacks the sequence gradients and is for `project` and `accumulate` only; "
            "use 'exact', the same projection from the Gram matrix"
        )


def _refuse_intra(config: ProjectionConfig) -> None:
    if config.method == "intra":
        raise ValueError(
            "method 'intra' takes a layer's output gradients and inputs, not sequence gradients; call `intra` with "
            "them, or let Proma do it in a backward pass"
        )


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


# ------------------------------------------------------------------------------- within a microbatch, by its factors


def intra(
    gradient: Float[Tensor, "o i"], output_grads: Float[Tensor, "N o"], inputs: Float[Tensor, "N i"], rank: int
) -> Float[Tensor, "o i"]:
    """Intra-PROMA for the weight of a linear layer: ``g - U U' g V V'``, to be added plainly to what there is.

    gradient: the microbatch's policy gradient ``g``, a combination of the rows' outer products. output_grads, inputs:
    those rows, with the output gradients of the log-probs, *without* advantages, as in ``S_i``. ``U`` and ``V`` are
    their `dominant_directions`; rows without an output gradient (padding) have no part in either. Where neither side
    has more than ``rank`` independent directions, nothing is left.

    This is our reading of the abstract of versions 3 and 4 of the paper, which is all that we have of them: "a factored
    projection using dominant subspaces of activations and gradient outputs, applied independently within each
    microbatch". As no microbatch meets another, it does not matter on which process one runs.
    """
    left, core, right = dominant_part(gradient, output_grads, inputs, rank)
    return gradient - left @ core @ right.T


def dominant_part(
    gradient: Float[Tensor, "o i"], output_grads: Float[Tensor, "N o"], inputs: Float[Tensor, "N i"], rank: int
) -> tuple[Float[Tensor, "o k"], Float[Tensor, "k l"], Float[Tensor, "i l"]]:
    """``U``, ``U' g V`` and ``V``, whose product ``U U' g V V'`` is what `intra` removes."""
    contributing = inputs.where(output_grads.any(dim=1, keepdim=True), 0)
    left, right = dominant_directions(output_grads, rank), dominant_directions(contributing, rank)
    return left, left.T @ gradient @ right, right


def dominant_directions(rows: Float[Tensor, "N d"], rank: int) -> Float[Tensor, "d k"]:
    """Orthonormal columns that span the leading ``rank`` right singular vectors of the rows; fewer if there are fewer.

    By subspace iteration from a fixed start, which costs little beside the layer's own products. Thanks to some spare
    directions it is exact for small layers and where the singular values fall quickly; where they hardly do, the
    directions found carry nearly as much.
    """
    width = min(rank + _SPARE_DIRECTIONS, *rows.shape)
    features, waves = (torch.arange(1, n + 1, dtype=rows.dtype, device=rows.device) for n in (rows.shape[1], width))
    basis = torch.outer(features, waves).cos()
    for _ in range(_PASSES):
        basis, _ = torch.linalg.qr(rows.T @ _image(rows, basis))
    image = _image(rows, basis)
    _, by_size = torch.linalg.eigh(image.T @ image)
    return basis @ by_size[:, max(0, width - rank) :]


def _image(rows: Float[Tensor, "N d"], basis: Float[Tensor, "d w"]) -> Float[Tensor, "N w"]:
    image = rows @ basis
    return _with_largest_one(image.flatten())[0].view_as(image)
