"""A tiny random Qwen3 with grouped-query attention, and answers of unequal length, padded or packed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracle import Micro
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from proma_bench import ProjectionConfig, Proma

VOCABULARY = 61


@pytest.fixture(autouse=True)
def norm_in_the_type_of_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Qwen3RMSNorm, "forward", norm_forward)


def norm_forward(norm: Any, hidden: Tensor) -> Tensor:
    """The class rounds to float32 inside, which would hide what float64 is there to show."""
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    return norm.weight * wide.to(hidden.dtype)


def tiny_qwen3(dtype: torch.dtype, *, tied: bool = True) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=tied,
        attn_implementation="sdpa",
    )
    model = Qwen3ForCausalLM(config).to(dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
            parameter.copy_(noise * 0.1 + (1.0 if parameter.ndim == 1 else 0.0))
    return model


class Answers:
    """Token sequences of unequal length; the log-prob of the tokens after the first two (the prompt)."""

    def __init__(self, seed: int, lengths: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.lengths = torch.tensor(lengths)
        self.tokens = [torch.randint(VOCABULARY, (n,), generator=generator) for n in lengths]
        self.advantages = torch.randn(len(lengths), generator=generator, dtype=torch.float64)

    def alone(self, model: nn.Module, i: int) -> Tensor:
        tokens = self.tokens[i].unsqueeze(0)
        return next_token_log_probs(model(tokens).logits, tokens)[:, 1:].sum()

    def padded(self, model: nn.Module) -> Tensor:
        tokens = nn.utils.rnn.pad_sequence(self.tokens, batch_first=True)
        mask = torch.arange(tokens.shape[1]) < self.lengths.unsqueeze(1)
        log_probs = next_token_log_probs(model(tokens, attention_mask=mask.long()).logits, tokens)
        return torch.where(mask[:, 2:], log_probs[:, 1:], 0).sum(1)

    def packed(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """[1, total] with positions that start again and a block-diagonal causal mask."""
        ids = torch.arange(len(self.tokens)).repeat_interleave(self.lengths)
        position = torch.cat([torch.arange(n) for n in self.lengths.tolist()])
        visible = (ids.unsqueeze(0) == ids.unsqueeze(1)).tril()
        dtype = next(model.parameters()).dtype
        mask = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
        tokens = torch.cat(self.tokens).unsqueeze(0)
        logits = model(tokens, attention_mask=mask[None, None], position_ids=position.unsqueeze(0)).logits
        kept = (ids[1:] == ids[:-1]) & (position[1:] >= 2)
        log_probs = torch.where(kept, next_token_log_probs(logits, tokens)[0], 0)
        return log_probs.new_zeros(len(self.tokens)).index_add(0, ids[1:], log_probs), ids.unsqueeze(0)


def next_token_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)


ANSWERS = [Answers(1, (5, 9, 4)), Answers(2, (7, 3, 8, 8)), Answers(3, (6, 6)), Answers(4, (10, 4, 5, 9))]
MICROS = [Micro(answers.alone, answers.advantages) for answers in ANSWERS]


def run(model: nn.Module, config: ProjectionConfig, layout: str = "padded", **options: Any) -> None:
    with Proma(model, config, **options) as proma:
        for answers in ANSWERS:
            result = getattr(answers, layout)(model)
            log_probs, ids = result if isinstance(result, tuple) else (result, None)
            proma.backward(log_probs, answers.advantages.to(log_probs.dtype), ids)
