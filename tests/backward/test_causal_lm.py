"""The backward engine on the model class of the upper tiers: a tiny random Qwen3 with grouped-query attention."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from causal_lm import ANSWERS, MICROS, norm_in_the_type_of_its_input, run, tiny_qwen3  # noqa: F401
from oracle import assert_gradients, oracle_gradients
from peft import LoraConfig, get_peft_model
from torch import Tensor

from proma_bench import ProjectionConfig, Proma
from proma_bench.projection.literal import accumulate


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
