"""From the sequence gradients of one parameter tensor to what this microbatch adds to its running gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from proma_bench.projection import ProjectionConfig, Removal, removal
from proma_bench.sequence_grads.factors import SequenceGrads


class Workspace:
    """One buffer a device and type, used again for every layer: fresh pages cost more than the arithmetic on them."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def rows_that_fit(self, sequences: int, shape: torch.Size, dtype: torch.dtype) -> int:
        """How many of a parameter's rows can be written out for all sequences at once; at least one."""
        row_bytes = sequences * math.prod(shape[1:]) * dtype.itemsize
        return max(1, min(shape[0], self.limit_bytes // max(1, row_bytes)))

    def take(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """An uninitialised tensor, valid until the next call."""
        size = math.prod(shape)
        buffer = self._buffers.get((device, dtype))
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[device, dtype] = torch.empty(size, dtype=dtype, device=device)
        return buffer[:size].view(shape)


def plain_gradient(
    uses: Sequence[SequenceGrads], weights: Float[Tensor, " B"], shape: torch.Size, dtype: torch.dtype
) -> Float[Tensor, "*W"]:
    """``sum_i weights_i S_i`` over all uses of the tensor: one matrix product a use."""
    gradient = torch.empty(shape, dtype=dtype, device=weights.device)
    for number, use in enumerate(uses):
        use.weighted_sum(gradient, weights, add=number > 0)
    return gradient


def corrected_gradient(
    uses: Sequence[SequenceGrads],
    running: Float[Tensor, "*W"],
    advantages: Float[Tensor, " B"],
    config: ProjectionConfig,
    workspace: Workspace,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "*W"], Removal]:
    """``sum_i (a_i - rho sigma w_i) S_i``, to be added to the running gradient, and what of it is removal.

    The rows of ``S`` are written out as far as the workspace reaches. Where that is all of them, the sum is taken from
    there; otherwise each chunk gives its share of Gram matrix and overlaps, and one more product per use the sum.
    """
    shape, sequences = running.shape, advantages.shape[0]
    chunk = workspace.rows_that_fit(sequences, shape, dtype)
    gram = torch.zeros(sequences, sequences, dtype=dtype, device=running.device)
    overlap = torch.zeros(sequences, dtype=dtype, device=running.device)
    for start in range(0, shape[0], chunk):
        rows = min(chunk, shape[0] - start)
        written = workspace.take((sequences, rows, *shape[1:]), dtype, running.device)
        for number, use in enumerate(uses):
            use.write_rows(written, start, add=number > 0)
        seq_grads = written.flatten(1)
        gram.addmm_(seq_grads, seq_grads.T)
        overlap.addmv_(seq_grads, running[start : start + rows].flatten().to(dtype))
    removed = removal(gram, overlap, advantages, config)
    corrected = (advantages.double() - removed.coefficients).to(dtype)
    if chunk == shape[0]:
        return (corrected @ seq_grads).view(shape), removed
    return plain_gradient(uses, corrected, shape, dtype), removed
