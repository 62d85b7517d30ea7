"""The interface of samplers, which generate answers to prompts, with the log-probs of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from proma_bench.learning.experience import PADDING

Prompts = Sequence[Sequence[int]]
"""Token ids, one list per prompt; no list is empty."""


@dataclass(frozen=True)
class Rollout:
    """R = Q x samples answers to Q prompts. The answers to one prompt are adjacent.

    Attributes:
        prompts: the prompt of each answer, [R, P], padded on the left.
        answers: [R, T], including the token that ends an answer, padded on the right.
        log_probs: log-probabilities of the tokens of answers in the sampler, 0 where padded.
        finished: whether an answer ended by itself; otherwise it was cut off.
    """

    prompts: Int[Tensor, "R P"]
    answers: Int[Tensor, "R T"]
    log_probs: Float[Tensor, "R T"]
    finished: Bool[Tensor, " R"]

    @property
    def mask(self) -> Bool[Tensor, "R T"]:
        """Whether an answer has a token in a position."""
        return self.answers != PADDING


@runtime_checkable
class Sampler(Protocol):
    """Generates answers with the current weights of the policy."""

    def sample(self, prompts: Prompts, samples: int, generator: torch.Generator | None) -> Rollout:
        """Generate answers.

        Args:
            prompts: the prompts.
            samples: number of answers per prompt.
            generator: for sampling at temperature 1; None gives greedy answers.

        Returns:
            The answers.
        """


def padded_left(prompts: Prompts) -> Int[Tensor, "Q P"]:
    """Pad prompts on the left.

    Args:
        prompts: the prompts.

    Returns:
        All prompts in one tensor.
    """
    padded = torch.full((len(prompts), max(map(len, prompts))), PADDING)
    for row, prompt in zip(padded, prompts, strict=True):
        row[len(row) - len(prompt) :] = torch.tensor(prompt)
    return padded
