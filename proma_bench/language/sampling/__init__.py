"""Samplers: prompts in; answers, and the sampler's own log-probs of them, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from proma_bench.learning.experience import PADDING

Prompts = Sequence[Sequence[int]]
"""Token ids, one list a prompt; none is empty."""


@dataclass(frozen=True)
class Rollout:
    """Answers to Q prompts, R = Q x samples of them, those of one prompt side by side.

    Attributes:
        prompts: [R, P], padded on the left.
        answers: [R, T], padded on the right, the token that ended an answer included.
        log_probs: of the answers' tokens when they were drawn, 0 where padded.
        finished: whether the answer ended by itself; the others were cut off.
    """

    prompts: Int[Tensor, "R P"]
    answers: Int[Tensor, "R T"]
    log_probs: Float[Tensor, "R T"]
    finished: Bool[Tensor, " R"]

    @property
    def mask(self) -> Bool[Tensor, "R T"]:
        """True where an answer has a token."""
        return self.answers != PADDING


@runtime_checkable
class Sampler(Protocol):
    """What answers prompts, with the weights that the policy has at that moment."""

    def sample(self, prompts: Prompts, samples: int, generator: torch.Generator | None) -> Rollout:
        """``samples`` answers to each prompt at temperature 1, or for no generator the greedy ones."""


def padded_left(prompts: Prompts) -> Int[Tensor, "Q P"]:
    """The prompts in one tensor."""
    padded = torch.full((len(prompts), max(map(len, prompts))), PADDING)
    for row, prompt in zip(padded, prompts, strict=True):
        row[len(row) - len(prompt) :] = torch.tensor(prompt)
    return padded
