"""A tiny Qwen3 in TRL: one token a character, a reward that is easily raised, and what updates are judged by."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from causal_lm import VOCABULARY, next_token_log_probs, tiny_qwen3
from datasets import Dataset
from oracle import Micro
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerFast, TrainerCallback

from proma_bench.integrations.trl import PROMAConfig, PROMATrainer

PROMPTS = Dataset.from_dict({"prompt": ["AB", "C", "DEF", "GHIJ", "K", "LM", "NOP", "QRST"] * 8})
LORA = LoraConfig(r=3, target_modules=["q_proj", "down_proj"])
MICROBATCHES, SIZE = 3, 4
INTRA_RANK = 20  # with the spare directions as many as a microbatch has rows, so that the subspaces are exact
NAMES = {field.name for field in fields(PROMAConfig)}
CHECKPOINTING = "activation_checkpointing" if "activation_checkpointing" in NAMES else "gradient_checkpointing"
"""What transformers calls it, before 5.22 and since."""


def tokenizer() -> PreTrainedTokenizerFast:
    letters = ["<pad>", "<eos>", *map(chr, range(ord("A"), ord("A") + VOCABULARY - 2))]
    words = models.WordLevel({letter: number for number, letter in enumerate(letters)}, unk_token="<pad>")
    characters = Tokenizer(words)
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=characters, pad_token="<pad>", eos_token="<eos>")


def early_letters(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The share of tokens from the first half of the vocabulary."""
    return [sum(token < VOCABULARY // 2 for token in ids) / len(ids) for ids in completion_ids]


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}


class Recording(PROMATrainer):
    """Keeps what each microbatch was, and what the gradients were before the last one and after it, for each step.

    changes: made to the inputs of every microbatch.
    """

    changes: Callable[[dict[str, Any]], dict[str, Any]] = staticmethod(lambda inputs: {})

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seen: list[dict[str, Any]] = []
        self.before_last: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.states: list[dict[str, Tensor]] = []
        self.add_callback(_Watch(self))

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **options: Any) -> Tensor:
        inputs = inputs | self.changes(inputs)
        if model.training:
            self.seen.append(inputs)
        return super().compute_loss(model, inputs, *args, **options)


class _Watch(TrainerCallback):
    def __init__(self, trainer: Recording) -> None:
        self.trainer = trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        model = self.trainer.model
        self.trainer.states.append({name: whole(p) for name, p in model.named_parameters()})

    def on_substep_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if len(self.trainer.seen) % MICROBATCHES == MICROBATCHES - 1 and not _is_sharded(self.trainer.model):
            self.trainer.before_last.append(gradients(self.trainer.model))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.trainer.gradients.append(gradients(self.trainer.model))


def _is_sharded(model: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def make_trainer(
    folder: Path, kind: type[PROMATrainer] = Recording, model: Any = None, lora: bool = False, **settings: Any
) -> Any:
    """In float64; it samples up to six tokens for each of 12 prompts, and steps on all of them in microbatches of 4.

    Settings are of PROMAConfig, or arguments of the trainer where they are known as such.
    """
    known = {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no"}
    sizes = {"per_device_train_batch_size": SIZE, "gradient_accumulation_steps": MICROBATCHES, "num_generations": 4}
    others = {"max_completion_length": 6, "max_steps": 1, "max_grad_norm": 0.0, "logging_steps": 1}
    defaults = known | sizes | others | {CHECKPOINTING: False, "disable_tqdm": True}
    options = {
        name: settings.pop(name) for name in ("rollout_func", "eval_dataset", "rule", "peft_config") if name in settings
    }
    trainer = kind(
        model=tiny_qwen3(torch.float64) if model is None else model,
        reward_funcs=early_letters,
        args=PROMAConfig(**defaults | settings),
        train_dataset=PROMPTS,
        processing_class=tokenizer(),
        **{"peft_config": LORA if lora else None} | options,
    )
    if lora:  # nothing may be zero
        generator = torch.Generator().manual_seed(5)
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return trainer


TokenWeight = Callable[[list[dict[str, Any]], int, int], float]
"""What a token of sequence i in microbatch m of a step weighs."""


def own_tokens(inputs: dict[str, Any]) -> Tensor:
    return inputs["completion_mask"] * inputs.get("tool_mask", 1)


def token_mean(step: list[dict[str, Any]], m: int, i: int) -> float:
    return 1 / sum(int(own_tokens(inputs).sum()) for inputs in step)


def micros(step: list[dict[str, Any]], weight: TokenWeight = token_mean, temperature: float = 1.0) -> list[Micro]:
    """A step's microbatches for the oracle: every sequence alone and without padding."""

    def micro(m: int) -> Micro:
        inputs = step[m]

        def log_prob(model: nn.Module, i: int) -> Tensor:
            prompt = inputs["prompt_ids"][i][inputs["prompt_mask"][i].bool()]
            real = inputs["completion_mask"][i].bool()
            tokens = torch.cat([prompt, inputs["completion_ids"][i][real]]).unsqueeze(0)
            log_probs = next_token_log_probs(model(input_ids=tokens).logits / temperature, tokens)[0, len(prompt) - 1 :]
            return weight(step, m, i) * (log_probs * own_tokens(inputs)[i][real]).sum()

        ratio = inputs.get("importance_sampling_ratio", torch.ones(1, 1))
        return Micro(log_prob, inputs["advantages"] * ratio.squeeze(1))

    return [micro(m) for m in range(len(step))]


def split(micro: Micro, size: int) -> list[Micro]:
    """The successive microbatches of one backward pass."""

    def part(start: int) -> Micro:
        return Micro(lambda model, i: micro.log_prob(model, start + i), micro.advantages[start : start + size])

    return [part(start) for start in range(0, len(micro.advantages), size)]


def kl_gradients(model: Any, step: list[dict[str, Any]], weight: float) -> dict[str, Tensor]:
    """Of ``r - log r - 1``, r = reference / policy, summed over a step's tokens; one sequence after another.

    model: with an adapter of peft, without which it is the reference.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    total = torch.zeros((), dtype=torch.float64)
    for inputs in step:
        for i, answer in enumerate(inputs["completion_ids"]):
            prompt = inputs["prompt_ids"][i][inputs["prompt_mask"][i].bool()]
            tokens = torch.cat([prompt, answer[inputs["completion_mask"][i].bool()]]).unsqueeze(0)
            own = next_token_log_probs(model(input_ids=tokens).logits, tokens)[0, len(prompt) - 1 :]
            with torch.no_grad(), model.disable_adapter():
                theirs = next_token_log_probs(model(input_ids=tokens).logits, tokens)[0, len(prompt) - 1 :]
            total = total + weight * ((theirs - own).exp() - (theirs - own) - 1).sum()
    return dict(zip(parameters, torch.autograd.grad(total, list(parameters.values())), strict=True))


class Centred(nn.Module):
    """Mixes the sequences of a microbatch."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, rows: Tensor) -> Tensor:
        rows = self.norm(rows)
        return rows - 0.5 * rows.mean(dim=0, keepdim=True)


def mixing_qwen3() -> Any:
    """A tiny Qwen3 whose last normalisation mixes them."""
    model = tiny_qwen3(torch.float64)
    model.model.norm = Centred(model.model.norm)
    return model


def at(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """A copy of the model with these weights, and without what TRL and accelerate made of its ``forward``."""
    result = copy.deepcopy(model).eval()
    for module in result.modules():
        vars(module).pop("forward", None)
    for name, parameter in result.named_parameters():
        parameter.data.copy_(state[name])
    return result
