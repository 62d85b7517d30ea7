"""Hypothesis strategies for hostile projection inputs.

Hypothesis draws what decides the difficulty: shapes, ranks, scales, seeds, and which sequences are zero, repeated,
negated or nearly repeated. Torch then generates the values from the drawn seed, so examples shrink to small shapes and
plain structure rather than to round numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

#: Exponents of ten between which scales are drawn; float16 ends at 65504 and starts to lose digits at 6e-5.
SCALE_EXPONENTS = {torch.float16: (-3.0, 2.0)}
WIDE_EXPONENTS = (-10.0, 10.0)

Shape = tuple[Any, ...]  # of ints; a type checker that tries a random item may not do so within a strategy
Draw = Callable[..., Any]  # st.DrawFn, as a type that can be checked at run time


class ProjectionProblem(NamedTuple):
    """Inputs of one step: a running gradient [*W], sequence gradients [B, *W] and advantages [B]."""

    running: Tensor
    seq_grads: Tensor
    advantages: Tensor

    def rounded(self, decimals: int) -> ProjectionProblem:
        """The same with all numbers rounded."""
        return ProjectionProblem(*(values.round(decimals=decimals) for values in self))


class GramProblem(NamedTuple):
    """The same in B dimensions: Gram matrix [B, B], overlaps [B] and advantages [B]."""

    gram: Tensor
    overlap: Tensor
    advantages: Tensor


@functools.cache
def shapes(max_side: int = 6) -> st.SearchStrategy[Shape]:
    """Shapes of a parameter tensor: vectors, matrices, three axes, and single elements with one to three axes."""
    side = st.integers(1, max_side)
    return st.one_of(
        st.tuples(st.integers(1, max_side * 4)), st.tuples(side, side), st.tuples(side, side, side), st.just(())
    )


@st.composite
def sequence_gradients(
    draw: Draw,
    *,
    shape: Shape | None = None,
    sequences: int | None = None,
    rank: int | None = None,
    scale: float | None = None,
    dtype: torch.dtype = torch.float64,
    repeats: bool = True,
    near_duplicates: bool = False,
) -> Tensor:
    """Sequence log-prob gradients [B, *W] of a drawn (or given) shape, number, rank and scale.

    ``sequences`` rows of rank ``rank`` (both drawn if not given, the rank at most what fits) are made with singular
    values in [0.3, 1], so that the rank has a *clear gap*: every eigenvalue of the normalised Gram matrix is at least
    0.09 or is rounding. That is so in float64; a narrower ``dtype`` rounds the gradients and with them the rank, which
    is therefore full there unless you give it.
    ``repeats`` adds copies, negations and zero gradients in any order, which keeps that gap. ``near_duplicates`` adds
    copies with relative errors of 1e-1 to 1e-15, which closes it. ``scale`` multiplies every gradient; where it is not
    given, each gradient has its own, from 1e-10 to 1e10 (as far as the dtype goes).
    """
    shape = draw(shapes()) if shape is None else shape
    size = math.prod(shape)
    count = draw(st.integers(1, 6)) if sequences is None else sequences
    largest_rank = min(count, size)
    if rank is None:
        rank = draw(st.integers(0 if repeats else 1, largest_rank)) if dtype == torch.float64 else largest_rank
    generator = draw(_GENERATORS)
    rows = _rows_of_rank(count, size, min(rank, largest_rank), generator)
    if near_duplicates:
        rows = torch.cat([rows, _nearly(rows, draw(_picks(count)), draw(st.floats(-15, -1)), generator)])
    if repeats:
        rows = _with_repeats(rows, draw(_picks(count)), draw(_picks(count)), draw(st.integers(0, 2)), generator)
    rows = rows * (_scales(len(rows), draw(_exponents(dtype)), generator) if scale is None else scale)
    return rows.reshape(-1, *shape).to(dtype)


@st.composite
def running_gradients(
    draw: Draw, seq_grads: Tensor, *, norm: float | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """A running gradient for these sequence gradients: anywhere, inside their span, nearly orthogonal to it, or zero.

    ``norm`` is its norm, drawn from 1e-10 to 1e10 if not given (as far as the dtype goes).
    """
    dtype = seq_grads.dtype if dtype is None else dtype
    place = draw(st.sampled_from(["anywhere", "inside", "outside", "zero"]))
    norm = 10.0 ** draw(_exponents(dtype)) if norm is None else norm
    generator = draw(_GENERATORS)
    rows = seq_grads.double().flatten(1) if seq_grads.dim() > 1 else seq_grads.double().reshape(-1, 1)
    direction = _normal(rows.shape[1], generator=generator)
    if place == "zero":
        direction = direction * 0
    if place in ("inside", "outside"):
        basis = _span(rows)
        inside = basis @ (basis.T @ direction)
        direction = inside if place == "inside" else direction - inside
    length = torch.linalg.vector_norm(direction)
    direction = direction / length if length > 1e-8 else direction * 0  # what is left of nothing is rounding
    return (norm * direction).reshape(seq_grads.shape[1:]).to(dtype)


@st.composite
def advantages(draw: Draw, sequences: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Advantages [B]: of any sign and size, group-relative (they sum to zero), one-sided, sparse or all zero."""
    values = _normal(sequences, generator=draw(_GENERATORS))
    kind = draw(st.sampled_from(["any", "group", "positive", "sparse", "zero", "large", "small"]))
    if kind == "group":
        values = values - values.mean()
    factor: dict[str, Any] = {
        "positive": values.sign(),
        "sparse": (values > 0).double(),
        "zero": 0.0,
        "large": 1e3,
        "small": 1e-3,
    }
    result: Tensor = (values * factor.get(kind, 1.0)).to(dtype)
    return result


@st.composite
def projection_problems(
    draw: Draw,
    *,
    shape: Shape | None = None,
    sequences: int | None = None,
    rank: int | None = None,
    scale: float | None = None,
    dtype: torch.dtype = torch.float64,
    repeats: bool = True,
    near_duplicates: bool = False,
    balanced: bool = False,
) -> ProjectionProblem:
    """A running gradient, sequence gradients and advantages that belong together; options as in `sequence_gradients`.

    ``balanced`` divides each advantage by the norm of its sequence gradient and draws the running gradient's norm
    within a factor of 100 of the microbatch gradient's, so that both matter and the clamp is sometimes active.
    """
    seq_grads = draw(
        sequence_gradients(
            shape=shape,
            sequences=sequences,
            rank=rank,
            scale=scale,
            dtype=dtype,
            repeats=repeats,
            near_duplicates=near_duplicates,
        )
    )
    values = draw(advantages(len(seq_grads)))
    if not balanced:
        return ProjectionProblem(draw(running_gradients(seq_grads)), seq_grads, values.to(dtype))
    norms = torch.linalg.vector_norm(seq_grads.double().reshape(len(seq_grads), -1), dim=1)
    values = values / torch.where(norms > 0, norms, 1.0)
    size = float(torch.linalg.vector_norm(torch.tensordot(values, seq_grads.double(), dims=1)))
    norm = (size or 1.0) * 10.0 ** draw(st.floats(-2, 2))
    return ProjectionProblem(draw(running_gradients(seq_grads, norm=norm)), seq_grads, values.to(dtype))


@st.composite
def gram_problems(
    draw: Draw,
    *,
    rank: int | None = None,
    scale: float | None = None,
    dtype: torch.dtype = torch.float64,
    near_duplicates: bool = False,
) -> GramProblem:
    """Gram matrix, overlaps and advantages as a backward pass would compute them, in ``dtype``."""
    if scale is None and dtype != torch.float64:
        scale = 10.0 ** draw(st.floats(-4, 4))  # the *squares* of the norms must stay within the type
    problem = draw(projection_problems(rank=rank, scale=scale, near_duplicates=near_duplicates, balanced=True))
    rows = problem.seq_grads.reshape(len(problem.seq_grads), -1).to(dtype)
    return GramProblem(rows @ rows.T, rows @ problem.running.flatten().to(dtype), problem.advantages.to(dtype))


# ----------------------------------------------------------------------------- what the strategies are made of


_GENERATORS = st.integers(0, 2**31 - 1).map(lambda seed: torch.Generator().manual_seed(seed))


@functools.cache
def _exponents(dtype: torch.dtype) -> st.SearchStrategy[float]:
    return st.floats(*SCALE_EXPONENTS.get(dtype, WIDE_EXPONENTS))


@functools.cache
def _picks(count: int) -> st.SearchStrategy[Tensor]:
    """Which of ``count`` rows to repeat, possibly none, possibly one twice."""
    return st.lists(st.integers(0, count - 1), max_size=3).map(lambda rows: torch.tensor(rows, dtype=torch.long))


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _rows_of_rank(count: int, size: int, rank: int, generator: torch.Generator) -> Tensor:
    """Rows [count, size] with ``rank`` singular values in [0.3, 1] and no others."""
    left = torch.linalg.qr(_normal(count, rank, generator=generator)).Q
    right = torch.linalg.qr(_normal(size, rank, generator=generator)).Q
    singular = 0.3 + 0.7 * torch.rand(rank, generator=generator, dtype=torch.float64)
    result: Tensor = (left * singular) @ right.T
    return result


def _nearly(rows: Tensor, picks: Tensor, exponent: float, generator: torch.Generator) -> Tensor:
    """Copies of the picked rows, off by a fraction ``10 ** exponent`` of their norm."""
    copies = rows[picks]
    noise = _normal(*copies.shape, generator=generator) / math.sqrt(rows.shape[1])
    result: Tensor = copies + 10.0**exponent * torch.linalg.vector_norm(copies, dim=1, keepdim=True) * noise
    return result


def _with_repeats(rows: Tensor, copied: Tensor, negated: Tensor, zeros: int, generator: torch.Generator) -> Tensor:
    rows = torch.cat([rows, rows[copied], -rows[negated], rows.new_zeros(zeros, rows.shape[1])])
    return rows[torch.randperm(len(rows), generator=generator)]


def _scales(count: int, exponent: float, generator: torch.Generator) -> Tensor:
    """One factor per row: powers of ten between 0 and the drawn exponent, so that it shrinks to equal scales."""
    return 10.0 ** (exponent * torch.rand(count, 1, generator=generator, dtype=torch.float64))


def _span(rows: Tensor) -> Tensor:
    """Orthonormal columns that span the rows, whatever their scales."""
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    _, singular, right = torch.linalg.svd(rows / torch.where(norms > 0, norms, 1.0), full_matrices=False)
    result: Tensor = right[singular > 1e-6].T
    return result
