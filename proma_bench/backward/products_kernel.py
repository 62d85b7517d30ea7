"""Gram matrix and overlaps of sequence gradients in one pass over them, written in Triton."""

# mypy: ignore-errors
# Triton has a language of its own, without types.

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check  # Triton compiles the source as it is
def products_kernel(
    rows_pointer,
    running_pointer,
    products_pointer,
    sequences,
    elements,
    stride,
    HAS_RUNNING: tl.constexpr,
    SIZE: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
):
    """Program ``p`` gives the part of its TILES tiles of TILE columns, in one product of SIZE x SIZE for each tile.

    The running gradient is one more row below the sequences, so that the overlaps are in the same product. Products
    are of three TF32 parts, which is float32; their sums are float64.
    """
    program = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, SIZE)
    total = tl.zeros((SIZE, SIZE), dtype=tl.float64)
    for tile in range(TILES):
        column = (program * TILES + tile) * TILE + tl.arange(0, TILE)
        is_inside = column < elements
        place = index[:, None].to(tl.int64) * stride + column[None, :]
        rows = tl.load(rows_pointer + place, mask=(index < sequences)[:, None] & is_inside[None, :], other=0.0)
        if HAS_RUNNING:
            running = tl.load(running_pointer + column, mask=is_inside, other=0.0).to(tl.float32)
            rows = tl.where(index[:, None] == sequences, running[None, :], rows)
        total += tl.dot(rows, tl.trans(rows), input_precision="tf32x3").to(tl.float64)
    stacked = sequences + 1 if HAS_RUNNING else sequences
    place = (program * stacked + index[:, None]) * sequences + index[None, :]
    is_real = (index < stacked)[:, None] & (index < sequences)[None, :]
    tl.store(products_pointer + place, total.to(tl.float32), mask=is_real)
