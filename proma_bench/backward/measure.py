"""From the sequence gradients of a parameter tensor to Gram matrix and overlaps, and from coefficients to a sum.

The rows of ``S`` are written out in blocks, with the same rows of ``A`` below them as one more sequence, so that one
pass over a block gives its share of the Gram matrix and of the overlaps. Blocks are kept in a workspace as long as
there is room, so that ``sum_i u_i S_i`` only has to read them again; the others are computed again from the factors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from proma_bench.backward.cost import GramMethod, cheaper_gram_method
from proma_bench.backward.factors import (
    Dense,
    OuterProducts,
    RaggedProducts,
    Scattered,
    SequenceGrads,
    joined,
)
from proma_bench.backward.products import gram_matrix, stacked_products

LIMIT_BYTES = 256 * 2**20
BLOCK_BYTES = 32 * 2**20  # of S at a time on a CPU: the products that write fewer rows take up to twice as long


class Workspace:
    """One buffer per device and type, which is used again and again: new memory pages cost more than arithmetic.

    Args:
        limit_bytes: of the buffer of each device; None is `default_limit`.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        self.used = 0  # elements
        self._limit = limit_bytes
        self._buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def limit(self, like: Tensor) -> int:
        """Bytes that there are on the device of a tensor."""
        return default_limit(like.device) if self._limit is None else self._limit

    def has_room(self, elements: int, like: Tensor) -> bool:
        """Whether this many more elements stay within the limit."""
        return (self.used + elements) * like.element_size() <= self.limit(like)

    def view(self, elements: int, like: Tensor) -> Tensor:
        """The next elements, whatever is in them; they stay the next ones until ``used`` is advanced."""
        device, dtype = like.device, like.dtype
        end = max(self.used + elements, self.limit(like) // dtype.itemsize)
        buffer = self._buffers.get((device, dtype))
        if buffer is None or buffer.shape[0] < end:
            buffer = self._buffers[device, dtype] = torch.empty(end, dtype=dtype, device=device)
        return buffer[self.used : self.used + elements]


@functools.cache
def default_limit(device: torch.device) -> int:
    """256 MiB; on a GPU, where few large kernels are faster, a 64th of its memory if that is more."""
    if device.type != "cuda":
        return LIMIT_BYTES
    return gpu_limit(torch.cuda.get_device_properties(device).total_memory)


def gpu_limit(memory: int) -> int:
    """The limit on a GPU with so many bytes."""
    return max(LIMIT_BYTES, memory // 64)


class Measured(NamedTuple):
    """What is known of a parameter tensor's sequence gradients after the one pass over them.

    Attributes:
        gram: K, in the type of the computation.
        overlap: c, likewise.
        blocks: the rows that are still there, as (first row, S).
        kept_rows: how many rows those are, from the first on.
        gram_method: how it was measured, see `cost`.
        occurring: the rows of the parameter that have a gradient, where only some have one. All other attributes are
            then about these rows only.
        is_partly_kept: the sum will need a large product again.
    """

    uses: Sequence[SequenceGrads]
    gram: Float[Tensor, "B B"]
    overlap: Float[Tensor, " B"]
    blocks: list[tuple[int, Float[Tensor, "B n"]]]
    kept_rows: int
    gram_method: str
    occurring: Int[Tensor, " R"] | None = None
    is_partly_kept: bool = False


def measure(
    uses: Sequence[SequenceGrads],
    running: Float[Tensor, "*W"] | None,
    shape: torch.Size,
    advantages: Float[Tensor, " B"],
    workspace: Workspace,
    gram_method: GramMethod = "auto",
) -> Measured:
    """Gram matrix and overlaps of the sequence gradients, summed over the uses; in the type of the advantages."""
    uses = joined(uses)
    match uses:
        case [Dense(seq_grads=seq_grads)]:
            return _measure_dense(uses, seq_grads.flatten(1), shape[0], running)
        case [OuterProducts() | RaggedProducts() as use] if _chosen(gram_method, use) == "tokens":
            return _measure_tokens(uses, use, running)
    embeddings = [use for use in uses if isinstance(use, Scattered)]
    tokens = sum(use.index.numel() for use in embeddings)
    if len(embeddings) == len(uses) and tokens < shape[0]:
        return _measure_occurring(embeddings, running, shape, advantages, workspace)
    return _measure_rows(uses, running, shape, advantages, workspace)


def _chosen(gram_method: GramMethod, use: OuterProducts | RaggedProducts) -> GramMethod:
    if gram_method != "auto":
        return gram_method
    sequences = use.right.shape[0] if isinstance(use, OuterProducts) else len(use.bounds) - 1
    outputs, inputs = use.outputs, use.right.shape[-1]
    return cheaper_gram_method(sequences, use.right.numel() // inputs, outputs, inputs)


def _measure_dense(uses: Sequence[SequenceGrads], seq_grads: Tensor, rows: int, running: Tensor | None) -> Measured:
    gram = gram_matrix(seq_grads)
    if running is None:
        overlap = gram.new_zeros(gram.shape[0])
    else:
        overlap = torch.mv(seq_grads, running.flatten().to(seq_grads.dtype))
    return Measured(uses, gram, overlap, [(0, seq_grads)], rows, "dense")


def _measure_tokens(
    uses: Sequence[SequenceGrads], use: OuterProducts | RaggedProducts, running: Tensor | None
) -> Measured:
    gram = use.token_gram()
    overlap = gram.new_zeros(gram.shape[0]) if running is None else use.token_overlap(running.to(gram.dtype))
    return Measured(uses, gram, overlap, [], 0, "tokens")


def _measure_rows(
    uses: Sequence[SequenceGrads],
    running: Tensor | None,
    shape: torch.Size,
    advantages: Tensor,
    workspace: Workspace,
) -> Measured:
    sequences, dtype = advantages.shape[0], advantages.dtype
    stacked = sequences if running is None else sequences + 1
    products: list[Tensor] = []
    blocks: list[tuple[int, Tensor]] = []
    kept_rows, row_size = 0, math.prod(shape[1:])
    room = workspace.limit(advantages) // 2  # for one block to keep and one to write
    largest = (room if advantages.is_cuda else min(BLOCK_BYTES, room)) // dtype.itemsize
    for start, rows in _row_blocks(shape[0], stacked * row_size, largest):
        elements = rows * row_size
        stack = workspace.view(stacked * elements, advantages).view(stacked, elements)
        seq_grads = stack[:sequences]
        written = seq_grads.view(sequences, rows, *shape[1:])
        for number, use in enumerate(uses):
            use.write_rows(written, start, add=number > 0)
        found = None if running is None else running[start : start + rows].flatten()
        products.append(stacked_products(stack, sequences, found))
        room_for = elements + min(rows, shape[0] - start - rows) * row_size  # this block, and the next to be written
        if kept_rows == start and workspace.has_room(stacked * room_for, advantages):
            workspace.used += sequences * elements
            blocks.append((start, seq_grads))
            kept_rows = start + rows
    method = "rows" if kept_rows == shape[0] else f"rows, {kept_rows} of {shape[0]} kept"
    total = products[0] if len(products) == 1 else torch.stack(products).sum(dim=0)
    gram, overlap = total[:sequences], total[-1] if running is not None else total.new_zeros(sequences)
    return Measured(uses, gram, overlap, blocks, kept_rows, method, is_partly_kept=kept_rows < shape[0])


def _measure_occurring(
    uses: Sequence[Scattered],
    running: Tensor | None,
    shape: torch.Size,
    advantages: Tensor,
    workspace: Workspace,
) -> Measured:
    """An embedding table that is larger than the microbatch: only the rows of its tokens."""
    tokens = torch.cat([use.index.flatten() for use in uses])
    occurring, places = _distinct(tokens)
    pieces = places.split([use.index.numel() for use in uses])  # type: ignore[no-untyped-call]
    compact = [
        Scattered(place.view_as(use.index), use.grads, use.grads.dtype) for use, place in zip(uses, pieces, strict=True)
    ]
    found = None if running is None else running[occurring]
    measured = _measure_rows(compact, found, torch.Size([len(occurring), *shape[1:]]), advantages, workspace)
    return measured._replace(gram_method=f"{measured.gram_method} of tokens that occur", occurring=occurring)


def _distinct(tokens: Int[Tensor, " N"]) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """The distinct tokens, filled up to N with zeros, and the place of each token among them.

    As `torch.unique`, which waits for a GPU to know how many there are.
    """
    ordered, order = tokens.sort()
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    rank = is_new.cumsum(0) - 1
    return torch.zeros_like(tokens).scatter_(0, rank, ordered), torch.empty_like(order).scatter_(0, order, rank)


def add_weighted(measured: Measured, weights: Float[Tensor, " B"], out: Float[Tensor, "*W"]) -> None:
    """``out += sum_i weights_i S_i``; ``out`` is contiguous and may be of a narrower type."""
    if measured.occurring is not None:
        rows = weights.new_zeros(measured.occurring.shape[0], *out.shape[1:])
        add_weighted(measured._replace(occurring=None), weights, rows)
        out.index_add_(0, measured.occurring, rows.to(out.dtype))
        return
    flat, row_size = out.view(-1), math.prod(out.shape[1:])
    for start, seq_grads in measured.blocks:
        part = flat[start * row_size :][: seq_grads.shape[1]]
        if out.dtype == weights.dtype:
            part.addmv_(seq_grads.T, weights)
        else:
            part += torch.mv(seq_grads.T, weights)
    rest = out[measured.kept_rows :]
    if rest.shape[0] == 0:
        return
    total = rest if out.dtype == weights.dtype else torch.zeros_like(rest, dtype=weights.dtype)
    for use in measured.uses:
        use.weighted_sum(total, weights, measured.kept_rows, add=True)
    if total is not rest:
        rest += total


def plain_gradient(
    uses: Sequence[SequenceGrads], weights: Float[Tensor, " B"], shape: torch.Size
) -> Float[Tensor, "*W"]:
    """``sum_i weights_i S_i`` over all uses of the tensor: one matrix product per use."""
    uses = joined(uses)
    if not uses:
        return torch.zeros(shape, dtype=weights.dtype, device=weights.device)
    gradient = torch.empty(shape, dtype=weights.dtype, device=weights.device)
    for number, use in enumerate(uses):
        use.weighted_sum(gradient, weights, 0, add=number > 0)
    return gradient


def _row_blocks(rows: int, row_size: int, elements: int) -> Iterator[tuple[int, int]]:
    """(first row, number of rows) of blocks of at most so many elements, of one row at least."""
    block = max(1, min(rows, elements // max(1, row_size)))
    for start in range(0, rows, block):
        yield start, min(block, rows - start)
