"""Sequence gradients of a made-up parameter, as factors and written out one sequence at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from proma_bench.backward.factors import Dense, OuterProducts, RaggedProducts, Scattered

SEQUENCES, LENGTH = 3, 4
KINDS = ("dense", "outer", "ragged", "scattered")


class MadeUp(NamedTuple):
    """Factors, and the S [B, outputs, inputs] that they stand for."""

    factors: Any
    seq_grads: Tensor


def made_up(kind: str, shape: tuple[int, int], dtype: torch.dtype = torch.float64, seed: int = 0) -> MadeUp:
    """Three sequences. Of the ragged ones one is empty; tokens of the scattered ones occur twice and in all of them."""
    generator = torch.Generator().manual_seed(seed)
    outputs, inputs = shape

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=dtype)

    if kind == "dense":
        seq_grads = draw(SEQUENCES, outputs, inputs)
        return MadeUp(Dense(seq_grads), seq_grads)
    if kind == "scattered":
        index, grads = torch.randint(outputs, (SEQUENCES, LENGTH), generator=generator), draw(SEQUENCES, LENGTH, inputs)
        index[:, 0] = index[0, 1] = outputs - 1
        seq_grads = torch.zeros(SEQUENCES, outputs, inputs, dtype=dtype)
        for i in range(SEQUENCES):
            for t in range(LENGTH):
                seq_grads[i, index[i, t]] += grads[i, t]
        return MadeUp(Scattered(index, grads, dtype), seq_grads)
    lengths = [4, 0, 2] if kind == "ragged" else [LENGTH] * SEQUENCES
    left, right = draw(sum(lengths), outputs), draw(sum(lengths), inputs)
    parts = zip(left.split(lengths), right.split(lengths), strict=True)
    seq_grads = torch.stack([own_left.T @ own_right for own_left, own_right in parts])
    if kind == "ragged":
        ids = torch.arange(SEQUENCES).repeat_interleave(torch.tensor(lengths))
        return MadeUp(RaggedProducts(left, right, ids, [0, 4, 4, 6], dtype), seq_grads)
    rows = (side.view(SEQUENCES, LENGTH, -1) for side in (left, right))
    return MadeUp(OuterProducts(*rows, dtype), seq_grads)
