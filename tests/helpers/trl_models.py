"""Architectures and adapters through `PROMATrainer`: one optimizer step each, against the float64 oracle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
import transformers
import zoo
from causal_lm import next_token_log_probs, tiny_qwen3
from oracle import Micro, literal_step
from peft import PeftConfig
from tiny_trl import Recording, at, make_trainer, token_mean
from torch import Tensor, nn

from proma_bench import ProjectionConfig

TOLERANCE = 1e-6

ARCHITECTURES = """
    ApertusForCausalLM BambaForCausalLM BloomForCausalLM Cohere2ForCausalLM DeepseekV2ForCausalLM DeepseekV3ForCausalLM
    Ernie4_5ForCausalLM FalconH1ForCausalLM FalconForCausalLM GPT2LMHeadModel GPTNeoXForCausalLM Gemma2ForCausalLM
    Gemma3ForCausalLM GemmaForCausalLM Glm4ForCausalLM Glm4MoeForCausalLM GptOssForCausalLM GraniteForCausalLM
    GraniteMoeForCausalLM JambaForCausalLM Lfm2ForCausalLM Llama4ForCausalLM LlamaForCausalLM MambaForCausalLM
    MistralForCausalLM MixtralForCausalLM OPTForCausalLM Olmo2ForCausalLM OlmoeForCausalLM Phi3ForCausalLM
    PhimoeForCausalLM Qwen2ForCausalLM Qwen2MoeForCausalLM Qwen3ForCausalLM Qwen3MoeForCausalLM Qwen3NextForCausalLM
    Qwen3_5ForCausalLM Qwen3_5MoeForCausalLM SmolLM3ForCausalLM StableLmForCausalLM Starcoder2ForCausalLM
""".split()

_LINEAR = ["q_proj", "v_proj", "down_proj"]


def _lora(**settings: Any) -> PeftConfig:
    return peft.LoraConfig(**{"r": 3, "target_modules": _LINEAR} | settings)


def _causal(kind: type[Any], **settings: Any) -> PeftConfig:
    config: PeftConfig = kind(task_type="CAUSAL_LM", **settings)
    return config


ADAPTERS: dict[str, Callable[[], PeftConfig]] = {
    "LoRA": _lora,
    "LoRA on all linear layers": lambda: _lora(target_modules="all-linear"),
    "LoRA with `use_rslora`": lambda: _lora(use_rslora=True),
    "DoRA": lambda: _lora(use_dora=True),
    "LoRA on `embed_tokens`": lambda: _lora(target_modules=["q_proj", "embed_tokens"]),
    "LoRA with `modules_to_save`": lambda: _lora(modules_to_save=["norm"]),
    "LoRA with `trainable_token_indices`": lambda: _lora(trainable_token_indices=[3, 5, 7]),
    "LoRA with `target_parameters`": lambda: _lora(target_modules=["v_proj"], target_parameters=["q_proj.weight"]),
    "AdaLoRA": lambda: peft.AdaLoraConfig(init_r=3, target_modules=_LINEAR, total_step=100, tinit=10, tfinal=10),
    "LoHa": lambda: peft.LoHaConfig(r=3, target_modules=_LINEAR),
    "LoKr": lambda: peft.LoKrConfig(r=3, target_modules=_LINEAR),
    "VeRA": lambda: peft.VeraConfig(r=3, target_modules=["q_proj"]),
    "OFT": lambda: peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"]),
    "IA3": lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "norms alone (LN tuning)": lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "norm"]),
    "prompt tuning": lambda: _causal(peft.PromptTuningConfig, num_virtual_tokens=3),
    "prefix tuning": lambda: _causal(peft.PrefixTuningConfig, num_virtual_tokens=3),
    "p-tuning": lambda: _causal(peft.PromptEncoderConfig, num_virtual_tokens=3, encoder_hidden_size=8),
}
"""By what the page calls them, on a tiny Qwen3."""


class Outcome(NamedTuple):
    """What became of it.

    verdict: ``right``; ``with autograd`` for ``uncovered="autograd"`` alone; ``refused`` when the trainer was made;
    ``late`` in a step; ``wrong``. reason: the error's text, or what is refused without autograd.
    """

    verdict: str
    error: float | None = None
    reason: str = ""


def architecture(name: str) -> Outcome:
    """Full training of a tiny model of this class of transformers."""
    with zoo.precision(torch.float64), zoo.quiet():
        return _outcome(lambda: zoo.build(getattr(transformers, name), torch.float64))


def adapter(name: str) -> Outcome:
    """An adapter of peft on a tiny Qwen3."""
    with zoo.precision(torch.float64), zoo.quiet():
        return _outcome(lambda: tiny_qwen3(torch.float64), peft_config=ADAPTERS[name]())


def _outcome(make_model: Callable[[], nn.Module], **options: Any) -> Outcome:
    refused = ""
    for uncovered, verdict in (("refuse", "right"), ("autograd", "with autograd")):
        with tempfile.TemporaryDirectory() as folder:
            try:
                trainer = make_trainer(
                    Path(folder), model=make_model(), uncovered=uncovered, router_aux_loss_coef=0.0, **options
                )
            except ValueError as error:
                refused = refused or " ".join(str(error).split())
                continue
            if options:  # what begins with zeros would hide mistakes
                _disturb(trainer.model)
            try:
                trainer.train()
            except (ValueError, RuntimeError) as error:
                return Outcome("late", reason=" ".join(str(error).split()))
        error = _worst_error(trainer)
        return Outcome(verdict if error < TOLERANCE else "wrong", error, refused)
    return Outcome("refused", reason=refused)


def _disturb(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data += 0.1 * noise.to(parameter.dtype)


def _worst_error(trainer: Recording) -> float:
    """Of a parameter's gradient, relative to its norm; a billionth of the largest one is rounding."""
    model = at(trainer.model, trainer.states[0])
    wanted = _oracle_gradients(model, [_padded(inputs, trainer.seen) for inputs in trainer.seen])
    found = trainer.gradients[0]
    floor = 1e-9 * max(float(gradient.norm()) for gradient in wanted.values())
    return max(
        float((found.get(name, torch.zeros_like(gradient)) - gradient).norm()) / max(float(gradient.norm()), floor)
        for name, gradient in wanted.items()
    )


def _padded(inputs: dict[str, Any], step: list[dict[str, Any]]) -> Micro:
    """A microbatch of rows that are alone, but padded as they were: TRL's padding moves absolute positions."""
    tokens, mask = (
        torch.cat([inputs[f"prompt_{kind}"], inputs[f"completion_{kind}"]], dim=1) for kind in ("ids", "mask")
    )
    before = inputs["prompt_ids"].shape[1] - 1

    def log_prob(model: nn.Module, i: int) -> Tensor:
        row = tokens[i : i + 1]
        logits = model(input_ids=row, attention_mask=mask[i : i + 1]).logits[:, -row.shape[1] :]  # no virtual tokens
        log_probs = next_token_log_probs(logits, row)[0, before:]
        return token_mean(step, 0, i) * (log_probs * inputs["completion_mask"][i]).sum()

    return Micro(log_prob, inputs["advantages"])


def _oracle_gradients(model: nn.Module, steps: list[Micro]) -> Mapping[str, Tensor]:
    """As `oracle.oracle_gradients`, for models that have parameters without a part in some sequence."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    running: dict[str, Tensor | None] = dict.fromkeys(parameters)
    for micro in steps:
        rows = [
            torch.autograd.grad(
                -micro.log_prob(model, i), list(parameters.values()), allow_unused=True, materialize_grads=True
            )
            for i in range(len(micro.advantages))
        ]
        for name, column in zip(parameters, zip(*rows, strict=True), strict=True):
            stacked = torch.stack(column)
            advantages = micro.advantages.to(stacked.dtype)
            running[name] = literal_step(running[name], stacked, advantages, ProjectionConfig())
    return {name: gradient for name, gradient in running.items() if gradient is not None}
