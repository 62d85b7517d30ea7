"""A causal language model of transformers as a policy: an action is a token of an answer."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution
from transformers import PreTrainedModel

from proma_bench.errors import RunError
from proma_bench.experience import PADDING, Experience
from proma_bench.tiers import Policy
from proma_bench.tokens import TokenDistribution, TrainedTokens


class LanguagePolicy(Policy):
    """The distributions of the answers' tokens, given the prompt and the answer so far.

    packed: train on all sequences one after another, [1, total], instead of padded to one length.
    """

    def __init__(self, model: PreTrainedModel, packed: bool = False) -> None:
        super().__init__()
        self.model, self.packed = model, packed
        self._tokens_at_once = 2**15  # where no gradient is wanted

    def on(self, experience: Experience) -> Distribution:
        """Distributions [B, T] over the vocabulary; what they are where an answer is padded means nothing.

        Without gradients they are a snapshot, good for measurements after the weights have changed.
        """
        if not torch.is_grad_enabled():
            head = functools.partial(F.linear, weight=self._head.weight.clone(), bias=self._head.bias)
            assert experience.mask is not None
            return TokenDistribution(self._hidden_rows(experience), experience.mask, head)
        width = experience.actions.shape[1]
        if self.packed:
            return Categorical(logits=self._packed_logits(_context(experience))[:, -width:], validate_args=False)
        return TrainedTokens(self._hidden(experience), self._head)

    def sequence_ids(self, experience: Experience) -> Int[Tensor, "1 total"] | None:
        if not self.packed:
            return None
        real = _context(experience) != PADDING
        rows = torch.arange(len(real), device=real.device).unsqueeze(1)
        return rows.expand_as(real)[real].unsqueeze(0)

    @property
    def _head(self) -> nn.Linear:
        head = self.model.get_output_embeddings()
        assert isinstance(head, nn.Linear)
        return head

    def _hidden_rows(self, experience: Experience) -> Float[Tensor, "rows hidden"]:
        """The hidden states of all real rows, a few sequences at a time; fewer where the memory does not suffice."""
        parts, start = [], 0
        while start < len(experience):
            count = max(1, self._tokens_at_once // experience.observations.shape[1])
            part = experience.select(torch.arange(start, min(start + count, len(experience))))
            try:
                parts.append(self._hidden(part)[part.mask])
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise RunError("out of memory in a forward pass of one sequence; lower answer_tokens") from None
                self._tokens_at_once //= 2
                continue
            start += count
        return torch.cat(parts)

    def _hidden(self, experience: Experience) -> Float[Tensor, "B T hidden"]:
        tokens = _context(experience)
        real = tokens != PADDING
        states = self.model.base_model(
            input_ids=tokens.clamp_min(0),
            attention_mask=real.long(),
            position_ids=_positions(real),
            use_cache=False,
        ).last_hidden_state
        return states[:, -experience.actions.shape[1] :]

    def _packed_logits(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L vocabulary"]:
        """Positions that begin again tell transformers where one sequence ends and the next begins."""
        real = tokens != PADDING
        packed = self.model(
            input_ids=tokens[real].unsqueeze(0), position_ids=_positions(real)[real].unsqueeze(0), use_cache=False
        ).logits.squeeze(0)
        logits = torch.zeros(*tokens.shape, packed.shape[-1], device=packed.device)
        logits[real] = packed.float()
        return logits


def _context(experience: Experience) -> Int[Tensor, "B L"]:
    """The tokens that some action follows: all but the last column."""
    return experience.observations[:, :-1]


def _positions(real: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    return (real.long().cumsum(dim=1) - 1).clamp_min(0)
