"""Which row of an activation belongs to which sequence of the microbatch."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Layout:
    """The map from activation rows to the ``B`` sequences of a microbatch.

    Without ``sequence_ids`` the first axis of every activation is the sequence: ``[B, ...]``. With them, the leading
    axes of every activation have the shape of ``sequence_ids``, and entry ``n`` belongs to sequence
    ``sequence_ids[n]``: ``[N]`` for flattened environment steps, ``[1, total]`` for packed text.
    """

    def __init__(self, sequences: int, sequence_ids: Tensor | None = None, device: torch.device | None = None) -> None:
        """Check the ids, for which a device is waited for, so that nothing else in here has to wait.

        Args:
            sequences: B.
            sequence_ids: the sequence of each row.
            device: where the activations are.

        Raises:
            ValueError: the ids are not whole numbers from 0 to ``sequences - 1``.
        """
        self.sequences, self._device = sequences, device
        self._leading: tuple[int, ...] | None = None
        self._bounds: list[int] | None = None
        self._padded: tuple[Tensor, Tensor] | None = None
        if sequence_ids is not None:
            _require_whole_numbers(sequence_ids)
            ids = sequence_ids.to(device, torch.long)
            self._enumerate(ids, _checked_longest(ids, sequences))

    def _enumerate(self, ids: Int[Tensor, "*leading"], longest: int) -> None:
        self._leading, self._ids, self._longest = tuple(ids.shape), ids.flatten(), longest
        self._bounds = _bounds(self._ids, self.sequences)

    def _of_rows(self, ids: Int[Tensor, "*leading"], longest: int) -> Layout:
        """A layout of the same sequences with other rows, ``longest`` of which at most belong to one of them."""
        found = Layout(self.sequences, device=self._device)
        found._enumerate(ids, longest)
        return found

    def _counted(self) -> Int[Tensor, " B"]:
        return torch.arange(self.sequences, device=self._device)

    @property
    def key(self) -> object:
        """What layouts of the same form have in common."""
        return self.sequences, None if self._leading is None else len(self._leading)

    def cuts(self, shape: Sequence[int]) -> object:
        """What says where something of this shape, which is seen in another one, is cut between sequences.

        With ``sequence_ids`` that is themselves, if no axis has their rows: windows of so many tokens, say.
        """
        if self._leading is None:
            return tuple([size % self.sequences == 0 for size in shape])
        rows = math.prod(self._leading)
        is_whole = rows in shape or self._leading == tuple(shape[: len(self._leading)]) or math.prod(shape) % rows != 0
        return None if is_whole else self._listed

    @functools.cached_property
    def _listed(self) -> tuple[int, ...]:
        """The sequence of each row, for which a device is waited for; once, however many shapes are asked about."""
        return tuple(self._ids.tolist())

    @property
    def has_ids(self) -> bool:
        """Whether ``sequence_ids`` were given."""
        return self._leading is not None

    def is_made_of(self, ids: Tensor) -> bool:
        """Whether these are the ``sequence_ids``, row by row."""
        return self._leading is not None and torch.equal(ids.long(), self._ids.to(ids.device))

    @property
    def row_axes(self) -> int:
        """How many leading axes of an activation enumerate rows."""
        return 1 if self._leading is None else len(self._leading)

    def mismatch(self, shape: torch.Size) -> str | None:
        """The reason why an activation of this shape does not fit the sequences; None if it fits."""
        if self._leading is not None:
            if shape[: len(self._leading)] == self._leading:
                return None
            return f"shape {list(shape)}, which does not begin with that of sequence_ids, {list(self._leading)}"
        if shape[:1] == (self.sequences,):
            return None
        advice = "expand it over the batch" if shape[:1] == (1,) else "pass sequence_ids"
        return f"shape {list(shape)}, whose first axis is not the {self.sequences} sequences; {advice}"

    def flat(self, shape: torch.Size) -> Layout | None:
        """The layout of rows in the same order whose leading axes are flattened; None if the shape does not fit."""
        if self._leading is not None:
            return self._of_rows(self._ids, self._longest) if shape[:1] == (self._ids.shape[0],) else None
        return self if len(shape) > 0 and shape[0] > 0 and shape[0] % self.sequences == 0 else None

    def second(self, shape: torch.Size) -> Layout | None:
        """The layout of rows whose second axis is the sequence, as in ``[T, B, d]``; None if the shape does not fit."""
        if self._leading is not None or len(shape) < 2 or shape[1] != self.sequences:
            return None
        return self._of_rows(self._counted().expand(shape[0], -1), shape[0])

    def turned(self, shape: torch.Size) -> Layout | None:
        """The layout of `second` with both axes flattened, as in ``[T * B, d]``; None if the shape does not fit."""
        if self._leading is not None or len(shape) == 0 or shape[0] == 0 or shape[0] % self.sequences != 0:
            return None
        length = shape[0] // self.sequences
        return self._of_rows(self._counted().repeat(length), length)

    def sums(self, shape: torch.Size) -> Layout | None:
        """The layout of rows that were added up by their ``sequence_ids``; None if there are none, or another shape."""
        return Layout(self.sequences, device=self._device) if self.has_ids and shape[:1] == (self.sequences,) else None

    def ids(self, shape: torch.Size) -> Int[Tensor, "*leading"]:
        """The sequence of each row of a tensor of this shape, for the axes that enumerate rows."""
        if self._leading is not None:
            return self._ids.view(self._leading)
        return self._counted().repeat_interleave(shape[0] // self.sequences)

    def agrees(self, found: Int[Tensor, "*rows"]) -> bool:
        """Whether the sequences that were found for rows are those of the layout; -1 is any."""
        if found.ndim < self.ids(found.shape).ndim:
            return False
        return bool(((found == self.spread(found.shape).to(found.device)) | (found < 0)).all())

    def spread(self, shape: torch.Size) -> Int[Tensor, "*rows"]:
        """The sequence of each entry of a tensor of this shape."""
        ids = self.ids(shape)
        return ids.view(*ids.shape, *[1] * (len(shape) - ids.ndim)).expand(shape)

    def only(self, rows: Tensor, sequence: int) -> Tensor:
        """The rows of one sequence, and zeros for the others."""
        ids = self.ids(rows.shape).to(rows.device)
        own = (ids == sequence).view(*ids.shape, *[1] * (rows.ndim - ids.ndim))
        return torch.where(own, rows, torch.zeros((), dtype=rows.dtype, device=rows.device))

    def weights(self, weights: Float[Tensor, " B"], like: Tensor) -> Tensor:
        """The weight of each row, to be multiplied with a tensor of rows."""
        ids = self.ids(like.shape).to(like.device)
        return weights.to(like.device, like.dtype)[ids].view(*ids.shape, *[1] * (like.ndim - ids.ndim))

    def group(self, rows: Tensor, feature_axes: int = 1) -> Tensor:
        """``[leading..., extra..., *features]`` to ``[B, M, *features]``, a view where that is possible.

        With ``sequence_ids``, sequences of unequal length are padded with zeros.
        """
        features = rows.shape[rows.ndim - feature_axes :]
        if self._leading is None:
            return rows.reshape(self.sequences, -1, *features)
        if self._padded is None:
            self._padded = _padded_index(self._ids, self.sequences, self._longest)
        index, padding = self._padded
        extra = math.prod(rows.shape[len(self._leading) : rows.ndim - feature_axes])
        flat = rows.reshape(math.prod(self._leading), extra, *features)
        padding = padding.reshape(-1, *[1] * (flat.ndim - 1))
        padded = flat.index_select(0, index).masked_fill_(padding, 0)
        return padded.reshape(self.sequences, -1, *features)

    def ragged(self, rows: Tensor) -> tuple[Float[Tensor, "N d"], Int[Tensor, " N"], list[int]] | None:
        """``[leading..., d]`` as rows that need no padding, the sequence of each, and where each sequence begins.

        The last bound is the end. None where the sequences do not follow one another, or one product per sequence is
        not the fastest way: on a GPU, and for sequences of equal length.
        """
        if not self._leading or self._bounds is None or rows.ndim != len(self._leading) + 1:
            return None
        return rows.flatten(0, -2), self._ids, self._bounds


def _bounds(ids: Int[Tensor, " N"], sequences: int) -> list[int] | None:
    """Where each sequence begins, and the end; None where rows are not in order or not on a CPU."""
    if ids.device.type != "cpu" or bool((ids[1:] < ids[:-1]).any()):
        return None
    counts = torch.bincount(ids, minlength=sequences)
    return [0, *counts.cumsum(0).tolist()]


def _require_whole_numbers(ids: Tensor) -> None:
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"sequence_ids must be whole numbers, got {ids.dtype}")
    if ids.numel() == 0:
        raise ValueError("sequence_ids is empty: there is no row to backpropagate through")


def _checked_longest(ids: Int[Tensor, "*leading"], sequences: int) -> int:
    """How many rows the longest sequence has; ValueError if a number is no sequence's."""
    longest = _lengths(ids.flatten().clamp(0, sequences - 1), sequences).max()
    low, high, most = map(int, torch.stack([ids.min(), ids.max(), longest]).tolist())
    if low < 0 or high >= sequences:
        raise ValueError(
            f"sequence_ids must lie between 0 and {sequences - 1}, the microbatch having {sequences} advantages; "
            f"got values from {low} to {high}"
        )
    return most


def _lengths(ids: Int[Tensor, " N"], sequences: int) -> Int[Tensor, " B"]:
    """As `torch.bincount`, which waits for a GPU."""
    return ids.new_zeros(sequences).index_add_(0, ids, torch.ones_like(ids))


def _padded_index(
    ids: Int[Tensor, " N"], sequences: int, longest: int
) -> tuple[Int[Tensor, " BT"], Bool[Tensor, " BT"]]:
    """For each slot of a ``[B, T_max]`` grid, the row that it holds, and whether it is padding."""
    order = torch.argsort(ids, stable=True)
    lengths = _lengths(ids, sequences)
    starts = lengths.cumsum(0) - lengths
    position = torch.arange(longest, device=ids.device)
    slots = (starts.unsqueeze(1) + position).clamp(max=ids.numel() - 1)
    padding = position >= lengths.unsqueeze(1)
    return order[slots].flatten(), padding.flatten()
