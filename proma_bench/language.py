"""A causal language model of transformers as a policy: an action is a token of an answer."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Categorical
from transformers import PreTrainedModel

from proma_bench.experience import PADDING, Experience
from proma_bench.tiers import Policy


class LanguagePolicy(Policy):
    """The distributions of the answers' tokens, given the prompt and the answer so far.

    packed: run the model on all sequences one after another, [1, total], instead of padded to one length.
    """

    def __init__(self, model: PreTrainedModel, packed: bool = False) -> None:
        super().__init__()
        self.model, self.packed = model, packed

    def on(self, experience: Experience) -> Categorical:
        """Distributions [B, T] over the vocabulary; what they are where an answer is padded means nothing."""
        width = experience.actions.shape[1]
        tokens = _context(experience)
        logits = self._packed_logits(tokens)[:, -width:] if self.packed else self._padded_logits(tokens, width)
        return Categorical(logits=logits.float(), validate_args=False)

    def sequence_ids(self, experience: Experience) -> Int[Tensor, "1 total"] | None:
        if not self.packed:
            return None
        real = _context(experience) != PADDING
        rows = torch.arange(len(real), device=real.device).unsqueeze(1)
        return rows.expand_as(real)[real].unsqueeze(0)

    def _padded_logits(self, tokens: Int[Tensor, "B L"], width: int) -> Float[Tensor, "B T vocabulary"]:
        real = tokens != PADDING
        return self.model(
            input_ids=tokens.clamp_min(0),
            attention_mask=real.long(),
            position_ids=_positions(real),
            use_cache=False,
            logits_to_keep=width,
        ).logits

    def _packed_logits(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L vocabulary"]:
        """Positions that begin again tell transformers where one sequence ends and the next begins."""
        real = tokens != PADDING
        packed = self.model(
            input_ids=tokens[real].unsqueeze(0), position_ids=_positions(real)[real].unsqueeze(0), use_cache=False
        ).logits.squeeze(0)
        logits = packed.new_zeros(*tokens.shape, packed.shape[-1])
        logits[real] = packed
        return logits


def _context(experience: Experience) -> Int[Tensor, "B L"]:
    """The tokens that some action follows: all but the last column."""
    return experience.observations[:, :-1]


def _positions(real: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    return (real.long().cumsum(dim=1) - 1).clamp_min(0)
