"""Sampled sequences, in the one form that every rung uses.

A *row* is one decision of the policy, a *sequence* what gets one reward and one advantage. Three layouts cover the
ladder; ``old_log_probs`` has the rows' shape in each:

    [B]      a row is a sequence                              (bandit)
    [N]      flattened rows, ``sequence_ids`` [N] in 0..B-1   (environment steps of B episodes)
    [B, T]   padded rows, ``mask`` [B, T] true where real     (tokens of B answers)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Experience:
    """What a policy saw, did and got.

    observations: what the policy's ``distribution`` takes; the first axis is the rows' first.
    actions: what it chose, in the shape that the distribution's ``log_prob`` takes.
    old_log_probs: their log-probabilities when they were sampled, [*rows].
    rewards, advantages: one a sequence, [B].
    sequence_ids, mask: see the module's layouts.
    """

    observations: Shaped[Tensor, "..."]
    actions: Shaped[Tensor, "..."]
    old_log_probs: Float[Tensor, "*rows"]
    rewards: Float[Tensor, " B"]
    advantages: Float[Tensor, " B"]
    sequence_ids: Int[Tensor, " N"] | None = None
    mask: Bool[Tensor, "B T"] | None = None

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.rewards)

    @property
    def rows(self) -> int:
        """The number of real rows: those that are not padding."""
        return self.old_log_probs.numel() if self.mask is None else int(self.mask.sum())

    def per_sequence(self, values: Float[Tensor, "*rows"]) -> Float[Tensor, " B"]:
        """The sum of the rows' values over each sequence."""
        if self.sequence_ids is not None:
            return values.new_zeros(len(self)).index_add(0, self.sequence_ids, values)
        if self.mask is not None:
            return torch.where(self.mask, values, 0.0).sum(dim=1)
        return values

    def per_row(self, values: Float[Tensor, " B"]) -> Float[Tensor, "*rows"]:
        """Every row's value is that of its sequence."""
        if self.sequence_ids is not None:
            return values[self.sequence_ids]
        return values if self.mask is None else values.unsqueeze(1).expand_as(self.mask)

    def mean(self, values: Float[Tensor, "*rows"]) -> float:
        """The mean over real rows."""
        return float(self.per_sequence(values).sum()) / self.rows

    def select(self, sequences: Int[Tensor, " b"]) -> Experience:
        """The given sequences, in the given order (flattened rows keep theirs)."""
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
        )

    def split(self, parts: int) -> Iterator[Experience]:
        """Neighbouring sequences in ``parts`` parts: one an optimizer step."""
        for sequences in torch.arange(len(self)).tensor_split(parts):
            yield self.select(sequences)

    def microbatches(self, size: int, generator: torch.Generator | None) -> list[Experience]:
        """Cut into microbatches of ``size`` sequences, shuffled by the generator unless it is None."""
        count = len(self)
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        return [self.select(sequences) for sequences in order.split(size)]

    @staticmethod
    def join(parts: Sequence[Experience]) -> Experience:
        """The sequences of all parts, in order."""
        if len(parts) == 1:
            return parts[0]
        first, starts = parts[0], itertools.accumulate((len(part) for part in parts), initial=0)

        def cat(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts])

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
            mask=None if first.mask is None else cat("mask"),
        )
