"""Sampled sequences, in the form that all tiers use.

A *row* is one decision of the policy. A *sequence* gets one reward and one advantage. There are three layouts of the
rows, and ``old_log_probs`` has this shape:

    [B]      a row is a sequence                              (bandit)
    [N]      flattened rows, ``sequence_ids`` [N] in 0..B-1   (environment steps of B episodes)
    [B, T]   padded rows, ``mask`` [B, T] true where real     (tokens of B answers)

For text, ``observations`` [B, P + T] contain the tokens of prompts and answers; the last T columns belong to the rows.
Padding is -1, on the left of prompts and on the right of answers. When sequences are selected, columns that are padding
in all of them are dropped.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

PADDING = -1
"""The value in positions without a token."""


@dataclass(frozen=True)
class Experience:
    """Sampled sequences: observations, actions and rewards.

    Attributes:
        observations: the inputs of the policy; their first axis is the first axis of the rows.
        actions: the chosen actions, in the shape that the distribution's ``log_prob`` accepts.
        old_log_probs: log-probabilities of the actions at the time of sampling, [*rows].
        rewards: one per sequence, [B].
        advantages: one per sequence, [B]. If they are omitted, they are NaN until they are computed from the rewards.
        sequence_ids: the sequence of each row, in the flattened layout.
        mask: whether a row is real, in the padded layout.
        flags: properties of the sequences by name, [B] each, such as ``cut`` (ended by the length limit). A run records
            the number of sequences with each property.
        sampler_gaps: the absolute difference between the sampler's log-probabilities and ``old_log_probs``, summed
            over each sequence, [B]; None if the policy itself sampled.
    """

    observations: Shaped[Tensor, "..."]
    actions: Shaped[Tensor, "..."]
    old_log_probs: Float[Tensor, "*rows"]
    rewards: Float[Tensor, " B"]
    advantages: Float[Tensor, " B"] = None  # type: ignore[assignment]  # None becomes NaN in __post_init__
    sequence_ids: Int[Tensor, " N"] | None = None
    mask: Bool[Tensor, "B T"] | None = None
    flags: Mapping[str, Bool[Tensor, " B"]] = field(default_factory=dict)
    sampler_gaps: Float[Tensor, " B"] | None = None

    def __post_init__(self) -> None:
        """Fill omitted advantages with NaN, so that the attribute is always a tensor."""
        if self.advantages is None:
            object.__setattr__(self, "advantages", torch.full_like(self.rewards, torch.nan))

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.rewards)

    @property
    def rows(self) -> int:
        """The number of real rows, without padding."""
        return self.total_rows([self])

    @staticmethod
    def total_rows(parts: Sequence[Experience]) -> int:
        """Count the real rows of several parts, for which a device is waited for once.

        Args:
            parts: the parts.

        Returns:
            Their number of rows, without padding.
        """
        padded = [part.mask.sum() for part in parts if part.mask is not None]
        others = sum(part.old_log_probs.numel() for part in parts if part.mask is None)
        return others + (int(torch.stack(padded).sum()) if padded else 0)

    def per_sequence(self, values: Float[Tensor, "*rows"]) -> Float[Tensor, " B"]:
        """Sum values over the rows of each sequence.

        Args:
            values: one per row; values of padding are ignored.

        Returns:
            One sum per sequence.
        """
        if self.sequence_ids is not None:
            return values.new_zeros(len(self)).index_add(0, self.sequence_ids, values)
        if self.mask is not None:
            return torch.where(self.mask, values, 0.0).sum(dim=1)
        return values

    def per_row(self, values: Float[Tensor, " B"]) -> Float[Tensor, "*rows"]:
        """Repeat values for the rows of each sequence.

        Args:
            values: one per sequence.

        Returns:
            The value of its sequence for each row.
        """
        if self.sequence_ids is not None:
            return values[self.sequence_ids]
        return values if self.mask is None else values.unsqueeze(1).expand_as(self.mask)

    def mean(self, values: Float[Tensor, "*rows"]) -> float:
        """Average values over the real rows.

        Args:
            values: one per row; values of padding are ignored.

        Returns:
            The mean; 0 if there are no real rows.
        """
        return float(self.per_sequence(values).sum()) / max(1, self.rows)

    def to(self, device: torch.device) -> Experience:
        """Move all tensors to a device.

        Args:
            device: the device.

        Returns:
            The same sequences on that device.
        """
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved, flags={name: flag.to(device) for name, flag in self.flags.items()})

    def select(self, sequences: Int[Tensor, " b"]) -> Experience:
        """Select sequences. Columns that are padding in all of them are dropped.

        Args:
            sequences: indices of the sequences.

        Returns:
            These sequences in this order. In the flattened layout, the order of the rows does not change.
        """
        return next(self._selections([sequences]))

    def _selections(self, parts: Sequence[Tensor]) -> Iterator[Experience]:
        """Several selections. Indices go to the device, and sizes come from it, once for all of them."""
        columns = self._columns()
        indices = torch.cat(list(parts)).to(self.observations.device, non_blocking=True)
        for part, index in zip(parts, indices.split([len(part) for part in parts]), strict=True):
            selected = self._selected(index)
            yield selected if columns is None else selected._trimmed([columns[number] for number in part.tolist()])

    def _selected(self, sequences: Int[Tensor, " b"]) -> Experience:
        rows, ids = sequences, None
        if self.sequence_ids is not None:
            position = sequences.new_full((len(self),), -1)
            position[sequences] = torch.arange(len(sequences), device=sequences.device)
            ids = position[self.sequence_ids]
            rows = (ids >= 0).nonzero().squeeze(1)
            ids = ids[rows]
        return Experience(
            observations=self.observations[rows],
            actions=self.actions[rows],
            old_log_probs=self.old_log_probs[rows],
            rewards=self.rewards[sequences],
            advantages=self.advantages[sequences],
            sequence_ids=ids,
            mask=None if self.mask is None else self.mask[rows],
            flags={name: flag[sequences] for name, flag in self.flags.items()},
            sampler_gaps=None if self.sampler_gaps is None else self.sampler_gaps[sequences],
        )

    def _columns(self) -> list[tuple[int, int]] | None:
        """Where each text begins, and how many columns of rows it has; None where there is no text."""
        if self.mask is None:
            return None
        width = self.mask.shape[1]
        starts = (self.observations[:, : self.observations.shape[1] - width] == PADDING).flatten(1).sum(dim=1)
        ends = (self.mask * torch.arange(1, width + 1, device=self.mask.device)).amax(dim=1)
        return [(start, end) for start, end in torch.stack([starts, ends], dim=1).tolist()]

    def _trimmed(self, columns: Sequence[tuple[int, int]]) -> Experience:
        """Text without the columns that are padding in all sequences; at least one column of rows remains.

        Args:
            columns: those of its texts, see `_columns`.
        """
        assert self.mask is not None
        start, rows = min(start for start, _ in columns), max(1, *(end for _, end in columns))
        end = self.observations.shape[1] - self.mask.shape[1] + rows
        return replace(
            self,
            observations=self.observations[:, start:end],
            actions=self.actions[:, :rows],
            old_log_probs=self.old_log_probs[:, :rows],
            mask=self.mask[:, :rows],
        )

    def split(self, parts: int) -> Iterator[Experience]:
        """Split into parts of adjacent sequences, one per optimizer step.

        Args:
            parts: number of parts.

        Yields:
            The parts in order.
        """
        yield from self._selections(torch.arange(len(self)).tensor_split(parts))

    def microbatches(
        self, size: int, generator: torch.Generator | None, sort_by_length: bool = False
    ) -> list[Experience]:
        """Split into microbatches.

        Args:
            size: sequences per microbatch; the last one may have fewer.
            generator: shuffles the sequences before; None keeps their order.
            sort_by_length: sort the sequences after that, short ones first; those of one length keep their order.

        Returns:
            The microbatches.
        """
        count = len(self)
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        if sort_by_length:
            lengths = self.per_sequence(torch.ones_like(self.old_log_probs)).cpu()
            order = order[lengths[order].argsort(stable=True)]
        return list(self._selections(order.split(size)))

    @staticmethod
    def join(parts: Sequence[Experience]) -> Experience:
        """Concatenate experience.

        Args:
            parts: all in the same layout.

        Returns:
            The sequences of all parts, in order.
        """
        if len(parts) == 1:
            return parts[0]
        if parts[0].mask is not None:
            parts = _padded_to_same_width(parts)

        def cat(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts])

        starts = itertools.accumulate((len(part) for part in parts), initial=0)
        ids = [
            part.sequence_ids + start
            for part, start in zip(parts, starts, strict=False)
            if part.sequence_ids is not None
        ]
        return Experience(
            observations=cat("observations"),
            actions=cat("actions"),
            old_log_probs=cat("old_log_probs"),
            rewards=cat("rewards"),
            advantages=cat("advantages"),
            sequence_ids=torch.cat(ids) if ids else None,
            mask=None if parts[0].mask is None else cat("mask"),
            flags={name: torch.cat([part.flags[name] for part in parts]) for name in parts[0].flags},
            sampler_gaps=None if parts[0].sampler_gaps is None else cat("sampler_gaps"),
        )


def _padded_to_same_width(parts: Sequence[Experience]) -> list[Experience]:
    """Pad text to the same number of columns: those of the longest prompt and of the longest answer."""
    answer = max(part.actions.shape[1] for part in parts)
    prompt = max(part.observations.shape[1] - part.actions.shape[1] for part in parts)
    padded = []
    for part in parts:
        right = answer - part.actions.shape[1]
        left = prompt - (part.observations.shape[1] - part.actions.shape[1])
        assert part.mask is not None
        padded.append(
            replace(
                part,
                observations=_widened(part.observations, left, right, PADDING),
                actions=_widened(part.actions, 0, right, 0),
                old_log_probs=_widened(part.old_log_probs, 0, right, 0.0),
                mask=_widened(part.mask, 0, right, False),
            )
        )
    return padded


def _widened(values: Tensor, left: int, right: int, padding: float) -> Tensor:
    """Add columns of padding: [B, left + T + right, ...]."""
    shape = [len(values), left + values.shape[1] + right, *values.shape[2:]]
    widened = values.new_full(shape, padding)
    widened[:, left : left + values.shape[1]] = values
    return widened
