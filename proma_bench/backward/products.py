"""Gram matrix and overlaps of sequence gradients that are written out."""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from proma_bench.projection.fused import works

CONTRACTION = 4096  # elements; see `inner_products`
LARGEST = 63  # sequences; with the running gradient one more row
TILES = 32  # of one program of the kernel


def stacked_products(
    stack: Float[Tensor, "S n"], sequences: int, running: Float[Tensor, " n"] | None
) -> Float[Tensor, "S B"]:
    """The Gram matrix of the first rows of a stack and, below it, their overlaps with the running gradient.

    Args:
        stack: the sequence gradients and, where there is a running gradient, one more row to write it to.
        sequences: B, one less than S where there is one.
        running: the running gradient, of whatever type.
    """
    seq_grads = stack[:sequences]
    if has_kernel(seq_grads):
        parts: Tensor = fused_products(seq_grads, running)
        return parts.sum(dim=0)
    if running is not None:
        stack[-1] = running
    return inner_products(stack, seq_grads)


def gram_matrix(rows: Float[Tensor, "B n"]) -> Float[Tensor, "B B"]:
    """``rows @ rows.T``, see `inner_products`."""
    return inner_products(rows, rows)


def inner_products(left: Float[Tensor, "A n"], right: Float[Tensor, "B n"]) -> Float[Tensor, "A B"]:
    """``left @ right.T`` by short contractions: a long one loses three digits of float32, and is slower."""
    length = left.shape[1]
    whole = length - length % CONTRACTION
    if whole <= CONTRACTION:
        return left @ right.T
    lefts, rights = (rows[:, :whole].unflatten(1, (-1, CONTRACTION)).transpose(0, 1) for rows in (left, right))  # type: ignore[no-untyped-call]
    products = torch.bmm(lefts, rights.transpose(1, 2)).sum(dim=0)
    return products.addmm_(left[:, whole:], right[:, whole:].T) if whole < length else products


# ---------------------------------------------------------------------------------------------------- on a GPU


def has_kernel(seq_grads: Tensor) -> bool:
    """Whether `fused_products` serves these gradients."""
    fits = seq_grads.dtype == torch.float32 and seq_grads.shape[0] <= LARGEST
    return fits and seq_grads.is_cuda and works_on(seq_grads.device)


@functools.cache
def works_on(device: torch.device) -> bool:
    """Try the kernel once."""
    ones = torch.ones(2, 1, device=device)
    return works(lambda: fused_products(ones, ones[0]), device)


@torch.library.custom_op(
    "proma_bench::fused_products", mutates_args=(), schema="(Tensor seq_grads, Tensor? running) -> Tensor"
)
def fused_products(seq_grads: Tensor, running: Tensor | None) -> Tensor:
    """Parts of `stacked_products`, in one pass over the gradients and without a copy of the running one.

    Args:
        seq_grads: [B, n], in float32; rows are contiguous.
        running: [n] or None.

    Returns:
        [parts, B + 1, B], or [parts, B, B] without a running gradient; their sum is wanted.
    """
    from proma_bench.backward.products_kernel import products_kernel

    parts = _empty(seq_grads, running)
    sequences, elements = seq_grads.shape
    products_kernel[(len(parts),)](
        *(seq_grads, seq_grads if running is None else running.contiguous(), parts),
        *(sequences, elements, seq_grads.stride(0)),
        HAS_RUNNING=running is not None,
        SIZE=padded(seq_grads),
        TILE=tile(seq_grads),
        TILES=TILES,
    )
    return parts


@fused_products.register_fake
def _(seq_grads: Tensor, running: Tensor | None) -> Tensor:
    return _empty(seq_grads, running)


def padded(seq_grads: Float[Tensor, "B n"]) -> int:
    """The sequences and the running gradient, as a power of two for which there are products."""
    return max(16, 1 << seq_grads.shape[0].bit_length())


def tile(seq_grads: Float[Tensor, "B n"]) -> int:
    """Columns at a time: 4,096 elements stay in registers."""
    return 4096 // padded(seq_grads)


def _empty(seq_grads: Float[Tensor, "B n"], running: Tensor | None) -> Float[Tensor, "P S B"]:
    sequences, elements = seq_grads.shape
    parts = -(-elements // (tile(seq_grads) * TILES))
    return seq_grads.new_empty(parts, sequences if running is None else sequences + 1, sequences)
