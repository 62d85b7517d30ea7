"""One step of PROMA in ``B`` dimensions as one kernel, written in Triton: normalise, solve, clamp, all in registers.

It is `proma_bench.projection.gram.removal` for tensors on a GPU, where that takes about fifty small kernels. A program
serves one parameter tensor; everything is float64. The matrices are padded to a power of two with sequences whose
gradient is zero, which change nothing.
"""

# mypy: ignore-errors
# Triton has a language of its own, without types.

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check  # Triton compiles the source as it is
def _entry(values, index, number):
    """``values[number]`` of a vector."""
    return tl.sum(tl.where(index == number, values, 0.0), axis=0)


@triton.jit
@no_type_check
def _row(matrix, rows, number):
    """``matrix[number, :]``"""
    return tl.sum(tl.where(rows == number, matrix, 0.0), axis=0)


@triton.jit
@no_type_check
def _column(matrix, columns, number):
    """``matrix[:, number]``"""
    return tl.sum(tl.where(columns == number, matrix, 0.0), axis=1)


@triton.jit
@no_type_check
def _product(matrix, vector):
    return tl.sum(matrix * vector[None, :], axis=1)


@triton.jit
@no_type_check
def _norm(gram, coefficients):
    """``sqrt(x'Kx)``, with the largest coefficient scaled to one to keep squares in range."""
    largest = tl.max(tl.abs(coefficients), axis=0)
    largest = tl.where(largest > 0, largest, 1.0)
    scaled = coefficients / largest
    square = tl.sum(_product(gram, scaled) * scaled, axis=0)
    return tl.sqrt(tl.where(square < 0, 0.0, square)) * largest


@triton.jit
@no_type_check
def _gauss_seidel(units, overlap, index, rows, sequences, SWEEPS: tl.constexpr):
    weights = tl.zeros_like(overlap)
    for _ in range(SWEEPS):
        for number in range(sequences):
            here = _entry(weights, index, number)
            rest = tl.sum(_row(units, rows, number) * weights, axis=0) - here  # units have norm one
            weights = tl.where(index == number, _entry(overlap, index, number) - rest, weights)
    return weights


@triton.jit
@no_type_check
def _cholesky(matrix, index, columns, sequences):
    """The lower triangle L with ``LL' = matrix``, and whether there is one."""
    triangle = tl.zeros_like(matrix)
    is_positive = sequences > 0
    for number in range(sequences):
        column = _column(matrix, columns, number)
        pivot = _entry(column, index, number)
        is_positive = is_positive & (pivot > 0)
        column = tl.where(index >= number, column / tl.sqrt(tl.where(pivot > 0, pivot, 1.0)), 0.0)
        triangle = tl.where(columns == number, column[:, None], triangle)
        matrix = matrix - column[:, None] * column[None, :]
    return triangle, is_positive


@triton.jit
@no_type_check
def _cholesky_solve(triangle, right, index, rows, columns, sequences):
    """``x`` with ``LL'x = right``."""
    forward = tl.zeros_like(right)
    for number in range(sequences):
        row = _row(triangle, rows, number)
        rest = _entry(right, index, number) - tl.sum(row * forward, axis=0)
        forward = tl.where(index == number, rest / _entry(row, index, number), forward)
    solution = tl.zeros_like(right)
    for back in range(sequences):
        number = sequences - 1 - back
        column = _column(triangle, columns, number)
        rest = _entry(forward, index, number) - tl.sum(column * solution, axis=0)
        solution = tl.where(index == number, rest / _entry(column, index, number), solution)
    return solution


@triton.jit
@no_type_check
def removal_kernel(
    gram_pointer,
    overlap_pointer,
    advantages_pointer,
    coefficients_pointer,
    norm_pointer,
    clamped_pointer,
    sequences,
    advantages_stride,
    SWEEPS: tl.constexpr,
    SOLVES: tl.constexpr,
    SHIFT: tl.constexpr,
    NEGLIGIBLE: tl.constexpr,
    MAX_REMOVED: tl.constexpr,
    SHRINKAGE: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Program ``p`` removes from tensor ``p``. SWEEPS > 0: Gauss-Seidel, else SOLVES of Cholesky with SHIFT.

    A squared norm up to NEGLIGIBLE is that of no gradient. MAX_REMOVED below zero is no clamp.
    """
    tensor = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, SIZE)
    rows, columns = index[:, None], index[None, :]
    is_real, is_diagonal = index < sequences, rows == columns
    place = tensor * sequences * sequences + rows * sequences + columns
    inside = (rows < sequences) & (columns < sequences)
    gram = tl.load(gram_pointer + place, mask=inside, other=0.0).to(tl.float64)
    overlap = tl.load(overlap_pointer + tensor * sequences + index, mask=is_real, other=0.0).to(tl.float64)
    advantages = tl.load(advantages_pointer + tensor * advantages_stride + index, mask=is_real, other=0.0)
    advantages = advantages.to(tl.float64)

    squares = tl.sum(tl.where(is_diagonal, gram, 0.0), axis=1)
    norms = tl.sqrt(tl.where(squares > NEGLIGIBLE, squares, float("inf")))
    units = gram / norms[:, None] / norms[None, :]
    units = tl.where(units > 1.0, 1.0, tl.where(units < -1.0, -1.0, units))
    units = tl.where(is_diagonal, 1.0, units)
    unit_overlap = overlap / norms

    if SWEEPS > 0:
        weights = _gauss_seidel(units, unit_overlap, index, rows, sequences, SWEEPS)
    else:
        shifted = units + tl.where(is_diagonal, SHIFT, 0.0).to(tl.float64)
        triangle, is_positive = _cholesky(shifted, index, columns, sequences)
        weights = tl.zeros_like(unit_overlap)
        for _ in range(SOLVES):
            rest = unit_overlap - _product(units, weights)
            weights += _cholesky_solve(triangle, rest, index, rows, columns, sequences)
        weights = tl.where(is_positive, weights, 0.0)
    weights = weights / norms

    norm, gradient_norm = _norm(gram, weights), _norm(gram, advantages)
    share = norm * 0.0 + SHRINKAGE
    is_clamped = norm < 0
    if MAX_REMOVED >= 0:
        allowed = gradient_norm * MAX_REMOVED
        is_clamped = norm > allowed
        share = tl.where(is_clamped, share * (allowed / tl.where(is_clamped, norm, 1.0)), share)
    tl.store(coefficients_pointer + tensor * sequences + index, share * weights, mask=is_real)
    tl.store(norm_pointer + tensor, share * norm)
    tl.store(clamped_pointer + tensor, is_clamped)
