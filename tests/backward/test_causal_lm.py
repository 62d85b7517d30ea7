"""The backward engine on the model class of the upper tiers: a tiny random Qwen3 with grouped-query attention."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from oracle import Micro, assert_gradients, oracle_gradients
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from proma_bench import ProjectionConfig, Proma
from proma_bench.projection.literal import accumulate

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


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["f64", "f32"])
@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_equals_the_oracle(method: Any, dtype: torch.dtype, relative: float, layout: str, tied: bool) -> None:
    model, config = tiny_qwen3(dtype, tied=tied), ProjectionConfig(method)
    wanted = oracle_gradients(copy.deepcopy(model).double(), MICROS, config)
    assert (wanted.get("lm_head.weight") is None) == tied
    run(model, config, layout)
    assert_gradients(model, wanted, relative)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant: bool) -> None:
    model = tiny_qwen3(torch.float64)
    wanted = oracle_gradients(model, MICROS, ProjectionConfig())
    with warnings.catch_warnings():  # the call has another name in newer transformers
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train()
    run(model, ProjectionConfig(), workspace_bytes=2**14)
    assert_gradients(model, wanted, 1e-9)


def test_lora() -> None:
    settings = LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights="gaussian", use_rslora=True)
    with warnings.catch_warnings():  # peft asks transformers for an attribute with a newer name
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(tiny_qwen3(torch.float64), settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    config = ProjectionConfig("exact")
    wanted = oracle_gradients(model, MICROS, config)
    assert 0 < len(wanted) == sum("lora_" in name for name in wanted)
    run(model, config)
    assert_gradients(model, wanted, 1e-9)


def test_autocast_to_bfloat16_is_near_the_float32_gradient() -> None:
    """Activations in bfloat16, parameters and gradients in float32: off by bfloat16's rounding and no more."""
    model = tiny_qwen3(torch.float32)
    wanted = oracle_gradients(copy.deepcopy(model).double(), MICROS, ProjectionConfig())
    with Proma(model) as proma:
        for answers in ANSWERS:
            with torch.autocast("cpu", torch.bfloat16):
                log_probs = answers.padded(model).float()
                proma.backward(log_probs, answers.advantages.float())  # inside of autocast, as some trainers do
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert_gradients(model, wanted, 0.1)


def test_bfloat16_parameters_follow_their_own_sequence_gradients() -> None:
    """The oracle on the very bfloat16 gradients that autograd gives, sequence by sequence, unpadded."""
    model, config = tiny_qwen3(torch.bfloat16), ProjectionConfig("exact")
    running: dict[str, Tensor | None] = {name: None for name, _ in model.named_parameters()}
    for answers in ANSWERS:
        rows = []
        for i in range(len(answers.tokens)):
            model.zero_grad()
            (-answers.alone(model, i)).backward()
            rows.append([p.grad for p in model.parameters()])
        for name, seq_grads in zip(running, map(torch.stack, zip(*rows, strict=True)), strict=True):
            running[name] = accumulate(running[name], seq_grads, answers.advantages.bfloat16(), config)
    model.zero_grad()
    run(model, config)
    assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in model.parameters())
    assert_gradients(model, {name: gradient for name, gradient in running.items() if gradient is not None}, 0.1)
