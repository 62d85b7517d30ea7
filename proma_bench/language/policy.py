"""A causal language model from transformers as a policy: an action is a token of an answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution
from transformers import DynamicCache, PreTrainedModel

from proma_bench.errors import RunError
from proma_bench.language.key_values import cached, can_share_beginnings, repeated
from proma_bench.language.last_step import LastStep, body_of
from proma_bench.language.models import accepted
from proma_bench.language.precision import computing_in
from proma_bench.language.tokens import TokenDistribution, TrainedTokens
from proma_bench.learning.experience import PADDING, Experience
from proma_bench.learning.policy import Policy


class LanguagePolicy(Policy):
    """The distributions of the tokens of answers, given the prompt and the previous tokens of the answer."""

    keeps_distributions = False

    _prefix: Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        packed: bool = False,
        *,
        prefix: Sequence[int] = (),
        constant_prefix: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Wrap a model.

        Args:
            model: the language model.
            packed: train on sequences that are concatenated, [1, total], instead of padded to the same length.
            prefix: tokens before every prompt; they are not part of the experience.
            constant_prefix: treat the keys and values of the prefix as constants in training. This is an approximation,
                because they depend on the weights, but the model need not process the prefix once per sequence.
            dtype: type of the computation, see `proma_bench.language.precision`; None is the type of the weights.
        """
        super().__init__()
        assert not (packed and prefix), "packed sequences have no common prefix"
        self.model, self.packed, self.dtype = model, packed, dtype
        self._constant_prefix = constant_prefix
        self.register_buffer("_prefix", torch.tensor(prefix, dtype=torch.long, device=model.device), persistent=False)
        self._body, self._vocabulary = body_of(model), int(model.config.get_text_config().vocab_size)
        self._tokens_at_once = 2**15  # in passes without gradient

    def frozen(self) -> Policy:
        """A copy that is not trained. Its weights are converted to ``dtype``; bfloat16 needs half the memory."""
        copied = super().frozen()
        assert isinstance(copied, LanguagePolicy)
        if self.dtype is not None:
            for module in copied.model.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    module.to(self.dtype)
            embedding = copied.model.get_input_embeddings()
            embedding.register_forward_hook(_as_float32)  # as in the policy: autocast keeps hidden states in float32
        return copied

    def on(self, experience: Experience) -> Distribution:
        """The distributions over the vocabulary in the rows of the answers, [B, T].

        Without gradients they are a snapshot, which remains valid when the weights change.

        Args:
            experience: prompts and answers.

        Returns:
            The distributions; their values have no meaning where an answer is padded.
        """
        last_step = LastStep(self.model, self._body, self.dtype)
        if not torch.is_grad_enabled():
            assert experience.mask is not None
            hidden = self._hidden_rows(experience).to(self.dtype)
            return TokenDistribution(hidden, experience.mask, last_step.snapshot(), self._vocabulary)
        width = experience.actions.shape[1]
        if self.packed:
            return Categorical(logits=self._packed_logits(_input_tokens(experience))[:, -width:], validate_args=False)
        start = self._cached_prefix() if self._constant_prefix else None
        return TrainedTokens(self._hidden(experience, start), last_step, self._vocabulary)

    def sequence_ids(self, experience: Experience) -> Int[Tensor, "1 total"] | None:
        """The sequence of each packed token; None if sequences are padded.

        Args:
            experience: prompts and answers.
        """
        if not self.packed:
            return None
        real = _input_tokens(experience) != PADDING
        rows = torch.arange(len(real), device=real.device).unsqueeze(1)
        return rows.expand_as(real)[real].unsqueeze(0)

    def _hidden_rows(self, experience: Experience) -> Float[Tensor, "rows hidden"]:
        """The hidden states of all real rows, for a few sequences at a time; fewer if there is not enough memory."""
        parts, start = [], 0
        prefix = self._cached_prefix() if len(self._prefix) and can_share_beginnings(self.model) else None
        while start < len(experience):
            count = max(1, self._tokens_at_once // experience.observations.shape[1])
            part = experience.select(torch.arange(start, min(start + count, len(experience))))
            try:
                parts.append(self._hidden(part, prefix)[part.mask])
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise RunError("out of memory in a forward pass of one sequence; lower max_new_tokens") from None
                self._tokens_at_once //= 2
                continue
            start += count
        return torch.cat(parts)

    def _hidden(self, experience: Experience, start: DynamicCache | None) -> Float[Tensor, "B T hidden"]:
        """The hidden states in the rows of the answers.

        Args:
            experience: prompts and answers.
            start: the key-value cache of the prefix; None processes the prefix with every sequence, which is exact.
        """
        tokens = _input_tokens(experience)
        if start is None:
            tokens, cache = _after(self._prefix, tokens), None
            real = tokens != PADDING
        else:
            cache = repeated(start, len(tokens))
            real = F.pad(tokens != PADDING, (len(self._prefix), 0), value=True)
        self.model.train(torch.is_grad_enabled())  # transformers uses gradient checkpointing only in training mode
        body = self.model.get_submodule(self._body)
        positions = _positions(real)[:, -tokens.shape[1] :]
        arguments = accepted(body, position_ids=positions, past_key_values=cache, use_cache=cache is not None)
        with computing_in(self.dtype, tokens.device):
            output = body(input_ids=tokens.clamp_min(0), attention_mask=real.long(), **arguments)
        states: Tensor = output.last_hidden_state
        return states[:, -experience.actions.shape[1] :]

    def _cached_prefix(self) -> DynamicCache:
        self.model.eval()
        with computing_in(self.dtype, self.model.device):
            return cached(self.model, self._prefix)

    def _packed_logits(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L vocabulary"]:
        """Logits of all positions, computed from packed sequences.

        transformers recognises the beginning of a sequence by its position, which is 0 again.
        """
        real = tokens != PADDING
        packed = self.model(
            input_ids=tokens[real].unsqueeze(0), position_ids=_positions(real)[real].unsqueeze(0), use_cache=False
        ).logits.squeeze(0)
        logits = torch.zeros(*tokens.shape, packed.shape[-1], device=packed.device)
        logits[real] = packed.float()
        return logits


def _input_tokens(experience: Experience) -> Int[Tensor, "B L"]:
    """The tokens that the model processes: all except the last column, because no action follows it."""
    return experience.observations[:, :-1]


def _after(prefix: Int[Tensor, " p"], tokens: Int[Tensor, "B L"]) -> Int[Tensor, "B n"]:
    """The tokens with a prefix at the beginning of each text, after its padding."""
    if len(prefix) == 0:
        return tokens
    longer = F.pad(tokens, (len(prefix), 0), value=PADDING)
    first = (longer != PADDING).int().argmax(dim=1, keepdim=True)
    columns = first - len(prefix) + torch.arange(len(prefix), device=tokens.device)
    return longer.scatter(1, columns, prefix.to(tokens.device).expand_as(columns))


def _positions(real: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    return (real.long().cumsum(dim=1) - 1).clamp_min(0)


def _as_float32(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output.float()
