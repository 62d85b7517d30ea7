"""Sequence gradients ``S_i`` of one parameter tensor in the form in which a backward pass gives them.

A whole set ``S`` is ``B`` times the size of the parameter, so it is kept as its factors and written out only for a
range of the parameter's rows at a time (rows are its first axis). Two operations serve everything that PROMA needs:

    write_rows    S[:, start:stop], for Gram matrix and overlaps
    weighted_sum  sum_i u_i S_i for a range of rows, as one product and without writing S out

Several uses of one tensor (a tied embedding and head, a module called twice) add into one buffer, which puts the
cross terms into the Gram matrix. A scalar parameter counts as one of shape [1].
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

AT_ONCE = 2**23  # elements that are converted, joined or written out at a time, on a CPU
GPU_FACTOR = 8  # on a GPU, for which 32 MiB are little


@runtime_checkable
class SequenceGrads(Protocol):
    """What a layer rule returns for one parameter tensor of shape ``[*W]``; ``R`` rows from ``start`` at a time."""

    def write_rows(self, out: Float[Tensor, "B R ..."], start: int, *, add: bool) -> None:
        """Write (or add) ``S[:, start : start + R]`` to ``out``."""

    def weighted_sum(self, out: Float[Tensor, "R ..."], weights: Float[Tensor, " B"], start: int, *, add: bool) -> None:
        """Write (or add) rows ``start`` to ``start + R`` of ``sum_i weights_i S_i`` to ``out``."""


class Dense:
    """Sequence gradients written out: ``S`` itself, for small parameters."""

    def __init__(self, seq_grads: Float[Tensor, "B *W"]) -> None:
        self.seq_grads = seq_grads if seq_grads.ndim > 1 else seq_grads.unsqueeze(1)

    def write_rows(self, out: Tensor, start: int, *, add: bool) -> None:
        rows = self.seq_grads[:, start : start + out.shape[1]]
        out.add_(rows) if add else out.copy_(rows)

    def weighted_sum(self, out: Tensor, weights: Tensor, start: int, *, add: bool) -> None:
        rows = self.seq_grads[:, start : start + out.shape[0]]
        total = torch.tensordot(weights, rows, dims=1)
        out.add_(total) if add else out.copy_(total)


class OuterProducts:
    """``S_i = sum_t left_it (x) right_it``: the weight of a linear layer, output gradients times inputs.

    Both stay in the type in which they arrive, such as bfloat16 under autocast. Products of them are exact in
    ``dtype``, and are summed in it. Where the device has no such product, they are converted for a few rows at a time.

    Args:
        left: the output gradients of one use of the layer.
        right: its inputs, which are rounded to the type of ``left``, as they were for the product of the forward pass.
        dtype: the type of the sequence gradients.
    """

    def __init__(self, left: Float[Tensor, "B T o"], right: Float[Tensor, "B T i"], dtype: torch.dtype) -> None:
        self._lefts: tuple[Tensor, ...] = (left,)
        self.right, self._dtype = right.to(left.dtype), dtype
        self._is_mixed = left.dtype != dtype and has_mixed_products(left)
        if not self._is_mixed:
            self.right = self.right.to(dtype)

    @classmethod
    def joined(cls, uses: Sequence[OuterProducts]) -> OuterProducts:
        """Several uses as one: a product over all of their tokens is faster than a product for each use.

        The inputs are copied; the output gradients, which may be as wide as a vocabulary, for a few rows at a time.
        """
        use = copy.copy(uses[0])
        use._lefts = tuple(left for one in uses for left in one._lefts)
        use.right = torch.cat([one.right for one in uses], dim=1)
        return use

    @property
    def form(self) -> object:
        """What uses have in common that can be joined."""
        return self._lefts[0].dtype, self._lefts[0].device, self.right.dtype

    @property
    def left(self) -> Float[Tensor, "B T o"]:
        """The output gradients of all uses, in the type of the sequence gradients."""
        return self._left(0, self.outputs).to(self._dtype)

    @property
    def outputs(self) -> int:
        """How many rows the weight has."""
        return self._lefts[0].shape[2]

    def _left(self, start: int, stop: int) -> Float[Tensor, "B T R"]:
        pieces = [left[:, :, start:stop] for left in self._lefts]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def write_rows(self, out: Tensor, start: int, *, add: bool) -> None:
        left = self._left(start, start + out.shape[1]).transpose(1, 2)
        if self._is_mixed:
            if add:
                torch.baddbmm(out, left, self.right, out.dtype, out=out)
            else:
                torch.bmm(left, self.right, out.dtype, out=out)
        elif add:
            out.baddbmm_(left.to(self._dtype), self.right)
        else:
            torch.bmm(left.to(self._dtype), self.right, out=out)

    def weighted_sum(self, out: Tensor, weights: Tensor, start: int, *, add: bool) -> None:
        rows = out.shape[0]
        if self._is_mixed:  # weights are not rounded to 16 bits, so they cannot be part of a factor
            block = max(1, at_once(out) // (weights.shape[0] * self.right.shape[-1]))
        elif len(self._lefts) > 1 or self._lefts[0].dtype != self._dtype:
            block = max(1, at_once(out) // self.right.shape[:2].numel())
        else:
            block = rows
        for first in range(0, rows, block):
            self._weighted_rows(out[first : first + block], weights, start + first, add=add)

    def _weighted_rows(self, out: Tensor, weights: Tensor, start: int, *, add: bool) -> None:
        if self._is_mixed:
            written = out.new_empty(weights.shape[0], *out.shape, dtype=self._dtype)
            self.write_rows(written, start, add=False)
            Dense(written).weighted_sum(out, weights, 0, add=add)
            return
        left, right = self._left(start, start + out.shape[0]).to(self._dtype), self.right
        weights = weights.view(-1, 1, 1)
        if left.shape[-1] < right.shape[-1]:
            left = left * weights
        else:
            right = right * weights
        out.addmm_(left.flatten(0, 1).T, right.flatten(0, 1), beta=int(add))

    def token_gram(self) -> Float[Tensor, "B B"]:
        """``K_ij = sum_st <left_is, left_jt> <right_is, right_jt>``: without S, by products of all pairs of tokens."""
        sequences, length = self.right.shape[:2]
        left, right = self.left.flatten(0, 1), self.right.to(self._dtype).flatten(0, 1)
        pairs = (left @ left.T).mul_(right @ right.T)
        return pairs.view(sequences, length, sequences, length).sum(dim=(1, 3))

    def token_overlap(self, running: Float[Tensor, "o i"]) -> Float[Tensor, " B"]:
        """``c_i = sum_t left_it' A right_it``."""
        return ((self.left.flatten(0, 1) @ running).view_as(self.right) * self.right).sum(dim=(1, 2))

    def rows(self, first: int, last: int) -> tuple[Float[Tensor, "N o"], Float[Tensor, "N i"], Int[Tensor, " N"]]:
        """The factors of sequences ``first`` to ``last`` (exclusive), row by row, and the sequence of each row."""
        ids = torch.arange(first, last, device=self.right.device).repeat_interleave(self.right.shape[1])
        return self.left[first:last].flatten(0, 1), self.right[first:last].to(self._dtype).flatten(0, 1), ids


class RaggedProducts:
    """`OuterProducts` of sequences of unequal length that follow one another, without copies and without padding.

    Args:
        left: the output gradients of all rows, sequence after sequence.
        right: the inputs of all rows, likewise.
        ids: the sequence of each row.
        bounds: where each sequence begins, and the end. It takes one product per sequence, and is for a CPU; on a GPU,
            padded `OuterProducts` are faster.
    """

    def __init__(
        self,
        left: Float[Tensor, "N o"],
        right: Float[Tensor, "N i"],
        ids: Int[Tensor, " N"],
        bounds: list[int],
        dtype: torch.dtype,
    ) -> None:
        self.left, self.right, self.ids, self.bounds = left.to(dtype), right.to(left.dtype).to(dtype), ids, bounds

    @property
    def outputs(self) -> int:
        """How many rows the weight has."""
        return self.left.shape[1]

    def write_rows(self, out: Tensor, start: int, *, add: bool) -> None:
        left = self.left[:, start : start + out.shape[1]]
        for rows, first, last in zip(out, self.bounds, self.bounds[1:], strict=False):
            rows.addmm_(left[first:last].T, self.right[first:last], beta=int(add))

    def weighted_sum(self, out: Tensor, weights: Tensor, start: int, *, add: bool) -> None:
        left, right, weights = self.left[:, start : start + out.shape[0]], self.right, weights[self.ids].unsqueeze(1)
        if left.shape[1] < right.shape[1]:
            left = left * weights
        else:
            right = right * weights
        out.addmm_(left.T, right, beta=int(add))

    def token_gram(self) -> Float[Tensor, "B B"]:
        pairs = (self.left @ self.left.T).mul_(self.right @ self.right.T)
        sequences = len(self.bounds) - 1
        rows = pairs.new_zeros(sequences, pairs.shape[1]).index_add_(0, self.ids, pairs)
        return pairs.new_zeros(sequences, sequences).index_add_(1, self.ids, rows)

    def token_overlap(self, running: Float[Tensor, "o i"]) -> Float[Tensor, " B"]:
        overlaps = ((self.left @ running) * self.right).sum(dim=1)
        return overlaps.new_zeros(len(self.bounds) - 1).index_add_(0, self.ids, overlaps)

    def rows(self, first: int, last: int) -> tuple[Float[Tensor, "N o"], Float[Tensor, "N i"], Int[Tensor, " N"]]:
        own = slice(self.bounds[first], self.bounds[last])
        return self.left[own], self.right[own], self.ids[own]


class Scattered:
    """``S_i[r] = sum of grads_it over t with index_it = r``: the rows of an embedding table."""

    def __init__(self, index: Int[Tensor, "B T"], grads: Float[Tensor, "B T d"], dtype: torch.dtype) -> None:
        self.index, self.grads = index, grads.to(dtype)

    def write_rows(self, out: Tensor, start: int, *, add: bool) -> None:
        if not add:
            out.zero_()
        sequences, rows = out.shape[:2]
        offsets = torch.arange(sequences, device=out.device).unsqueeze(1) * rows
        self._scatter(out.view(sequences * rows, -1), offsets, self.grads, start, rows)

    def weighted_sum(self, out: Tensor, weights: Tensor, start: int, *, add: bool) -> None:
        if not add:
            out.zero_()
        self._scatter(out, torch.zeros_like(self.index), self.grads * weights.view(-1, 1, 1), start, len(out))

    def _scatter(self, out: Tensor, offsets: Tensor, grads: Tensor, start: int, rows: int) -> None:
        """Add the gradients of the tokens in ``start .. start + rows`` at ``offsets + token - start``."""
        local = self.index - start
        inside = (local >= 0) & (local < rows)
        target = offsets + local.clamp(0, rows - 1)
        out.index_add_(0, target.flatten(), grads.masked_fill(~inside.unsqueeze(-1), 0).flatten(0, 1))


def joined(uses: Sequence[SequenceGrads]) -> Sequence[SequenceGrads]:
    """The uses of one tensor, with those of linear layers as one: a head that was applied to chunks, for example."""
    if len(uses) == 1:  # nearly always
        return uses
    groups: dict[object, list[OuterProducts]] = {}
    others: list[SequenceGrads] = []
    for use in uses:
        if isinstance(use, OuterProducts):
            groups.setdefault(use.form, []).append(use)
        else:
            others.append(use)
    linear = [group[0] if len(group) == 1 else OuterProducts.joined(group) for group in groups.values()]
    return [*linear, *others]


def at_once(tensor: Tensor) -> int:
    """Elements that are converted, joined or written out at a time on the device of a tensor."""
    return AT_ONCE * GPU_FACTOR if tensor.is_cuda else AT_ONCE


def has_mixed_products(tensor: Tensor) -> bool:
    """Whether tensors like this 16-bit one can be multiplied into float32."""
    return tensor.is_cuda and _has_mixed_products(tensor.dtype, tensor.device)


@functools.cache
def _has_mixed_products(dtype: torch.dtype, device: torch.device) -> bool:
    ones = torch.ones(1, 16, 16, dtype=dtype, device=device)
    try:
        torch.bmm(ones, ones, torch.float32)
    except (NotImplementedError, RuntimeError, TypeError):  # torch before 2.8, or another device
        return False
    return True


def compute_dtype(parameter: Tensor) -> torch.dtype:
    """The type in which the sequence gradients of a parameter are computed: float32, or float64 for float64."""
    return torch.promote_types(parameter.dtype, torch.float32)
