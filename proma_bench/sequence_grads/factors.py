"""Sequence gradients ``S_i`` of one parameter tensor in the form in which a backward pass yields them.

A whole set ``S`` is ``B`` times the size of the parameter, so it is kept as its factors and written out only for a
range of the parameter's rows at a time (rows are its first axis). Two operations serve everything that PROMA needs:

    write_rows    S[:, start:stop], for Gram matrix and overlaps
    weighted_sum  sum_i u_i S_i, as one product and without writing S out

Several uses of one tensor (a tied embedding and head, a module called twice) add into one buffer, which puts the
cross terms into the Gram matrix. A scalar parameter counts as one of shape [1].
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class SequenceGrads(Protocol):
    """What a layer rule returns for one parameter tensor of shape ``[*W]``."""

    def write_rows(self, out: Float[Tensor, "B R ..."], start: int, *, add: bool) -> None:
        """Write (or add) ``S[:, start : start + R]`` to ``out``."""

    def weighted_sum(self, out: Float[Tensor, "*W"], weights: Float[Tensor, " B"], *, add: bool) -> None:
        """Write (or add) ``sum_i weights_i S_i`` to ``out``."""


class Dense:
    """Sequence gradients written out: ``S`` itself, for parameters so small that factors would not pay."""

    def __init__(self, seq_grads: Float[Tensor, "B *W"]) -> None:
        self.seq_grads = seq_grads if seq_grads.ndim > 1 else seq_grads.unsqueeze(1)

    def write_rows(self, out: Tensor, start: int, *, add: bool) -> None:
        rows = self.seq_grads[:, start : start + out.shape[1]]
        out.add_(rows) if add else out.copy_(rows)

    def weighted_sum(self, out: Tensor, weights: Tensor, *, add: bool) -> None:
        total = torch.tensordot(weights.to(self.seq_grads.dtype), self.seq_grads, dims=1)
        out.add_(total) if add else out.copy_(total)


class OuterProducts:
    """``S_i = sum_t left_it (x) right_it``: the weight of a linear layer, output gradients times inputs."""

    def __init__(
        self, left: Float[Tensor, "B T o"], right: Float[Tensor, "B T i"], dtype: torch.dtype
    ) -> None:
        self.left, self.right = left.to(dtype), right.to(dtype)

    def write_rows(self, out: Tensor, start: int, *, add: bool) -> None:
        left = self.left[:, :, start : start + out.shape[1]].transpose(1, 2)
        out.baddbmm_(left, self.right, beta=int(add))

    def weighted_sum(self, out: Tensor, weights: Tensor, *, add: bool) -> None:
        left, right = self.left, self.right
        weights = weights.to(left.dtype).view(-1, 1, 1)
        if left.shape[-1] < right.shape[-1]:
            left = left * weights
        else:
            right = right * weights
        out.addmm_(left.flatten(0, 1).T, right.flatten(0, 1), beta=int(add))


class Scattered:
    """``S_i[r] = sum of grads_it over t with index_it = r``: the rows of an embedding table."""

    def __init__(self, index: Int[Tensor, "B T"], grads: Float[Tensor, "B T d"], dtype: torch.dtype) -> None:
        self.index, self.grads = index, grads.to(dtype)

    def write_rows(self, out: Tensor, start: int, *, add: bool) -> None:
        if not add:
            out.zero_()
        sequences, rows = out.shape[:2]
        local = self.index - start
        inside = (local >= 0) & (local < rows)
        offsets = torch.arange(sequences, device=out.device).unsqueeze(1) * rows
        target = (offsets + local.clamp(0, rows - 1)).flatten()
        source = self.grads.masked_fill(~inside.unsqueeze(-1), 0).flatten(0, 1)
        out.view(sequences * rows, -1).index_add_(0, target, source)

    def weighted_sum(self, out: Tensor, weights: Tensor, *, add: bool) -> None:
        if not add:
            out.zero_()
        source = self.grads * weights.to(self.grads.dtype).view(-1, 1, 1)
        out.index_add_(0, self.index.flatten(), source.flatten(0, 1))
