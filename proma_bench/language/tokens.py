"""Distributions over a large vocabulary that are never stored completely.

A distribution over 151,936 tokens in float32 takes 600 kB per row, which is hundreds of gigabytes per batch. Therefore
only the hidden states are stored, and logits are computed for a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Distribution, register_kl
from torch.utils.checkpoint import checkpoint

CHUNK = 2**24
"""Number of logits that are computed at a time: 64 MiB in float32. A few copies exist at the same time."""
GPU_FACTOR = 8
"""How many times more on a GPU: the weight of the head, which is read for each chunk, is larger than a small chunk."""

Head = Callable[[Tensor], Tensor]
"""Computes logits [B, T, vocabulary] from hidden states [B, T, hidden]."""


class TrainedTokens(Distribution):
    """The distribution of the token in every row of some answers, for training: log-probs with their gradient.

    If the logits do not fit into one chunk, they are computed again in the backward pass.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, hidden: Float[Tensor, "B T hidden"], head: Head, vocabulary: int) -> None:
        """Store the hidden states and the head.

        Args:
            hidden: the hidden states before each token.
            head: computes logits from hidden states.
            vocabulary: number of logits in a row.
        """
        super().__init__(batch_shape=hidden.shape[:2], validate_args=False)
        self.hidden, self.head, self.vocabulary = hidden, head, vocabulary

    def log_prob(self, value: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """The log-probabilities of tokens.

        In every chunk the first axis is the sequence, so that PROMA can separate the gradients of sequences.

        Args:
            value: the tokens.

        Returns:
            Their log-probabilities.
        """
        length = max(1, logits_at_once(self.hidden) // (len(self.hidden) * self.vocabulary))
        pieces = list(zip(self.hidden.split(length, dim=1), value.split(length, dim=1), strict=True))
        if len(pieces) == 1:
            return self._log_prob(*pieces[0])
        return torch.cat([checkpoint(self._log_prob, *piece, use_reentrant=False) for piece in pieces], dim=1)

    def _log_prob(self, hidden: Tensor, actions: Tensor) -> Tensor:
        log_probs = self.head(hidden).float().log_softmax(dim=2)
        return log_probs.gather(2, actions.unsqueeze(2)).squeeze(2)


class TokenDistribution(Distribution):
    """The distribution of the token in every row of some answers, for measurements, without gradients.

    All results [B, T] are 0 where a row is padding.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, hidden: Float[Tensor, "rows hidden"], mask: Bool[Tensor, "B T"], head: Head, vocabulary: int
    ) -> None:
        """Store the hidden states and the head.

        Args:
            hidden: the hidden states before the tokens of the real rows.
            mask: whether a row is real.
            head: computes logits from hidden states; it must not change while the distribution is used.
            vocabulary: number of logits in a row.
        """
        super().__init__(batch_shape=mask.shape, validate_args=False)
        self.hidden, self.mask, self.head, self.vocabulary = hidden, mask, head, vocabulary

    def log_prob(self, value: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """The log-probabilities of tokens.

        Args:
            value: the tokens.

        Returns:
            Their log-probabilities.
        """
        actions = value[self.mask]
        return self._per_row(lambda log_probs, rows: log_probs.gather(1, actions[rows].unsqueeze(1)).squeeze(1))

    def entropy(self) -> Float[Tensor, "B T"]:
        """The entropy per row."""
        return self._per_row(lambda log_probs, _: -(log_probs.exp() * log_probs).sum(dim=1))

    def divergence(self, other: TokenDistribution) -> Float[Tensor, "B T"]:
        """The KL divergence ``KL(self || other)``.

        Args:
            other: distributions in the rows of the same answers.

        Returns:
            The divergence per row.
        """

        def divergence(log_probs: Tensor, rows: slice) -> Tensor:
            others = other._log_probs(rows)
            return (log_probs.exp() * (log_probs - others)).sum(dim=1)

        return self._per_row(divergence)

    def _per_row(self, measure: Callable[[Tensor, slice], Tensor]) -> Float[Tensor, "B T"]:
        values = torch.zeros(self.mask.shape, device=self.mask.device)
        if len(self.hidden):
            measured = [measure(self._log_probs(rows), rows) for rows in self._chunks()]
            values[self.mask] = torch.cat(measured)
        return values

    def _chunks(self) -> Iterator[slice]:
        size = max(1, logits_at_once(self.hidden) // self.vocabulary)
        for start in range(0, len(self.hidden), size):
            yield slice(start, start + size)

    def _log_probs(self, rows: slice) -> Float[Tensor, "rows vocabulary"]:
        return self.head(self.hidden[rows].unsqueeze(0)).squeeze(0).float().log_softmax(dim=1)


def logits_at_once(hidden: Tensor) -> int:
    """How many logits are computed at a time on the device of these hidden states."""
    return CHUNK * GPU_FACTOR if hidden.is_cuda else CHUNK


@register_kl(TokenDistribution, TokenDistribution)
def _kl(first: TokenDistribution, second: TokenDistribution) -> Tensor:
    return first.divergence(second)
