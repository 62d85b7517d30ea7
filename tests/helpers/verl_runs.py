"""What the tests of the VeRL plug-in run in processes of their own: ``python verl_runs.py FOLDER RANK RANKS``."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from hydra import compose, initialize_config_module
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from tensordict import TensorDict
from torch import Tensor
from transformers import Qwen3ForCausalLM
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.metric import reduce_metrics
from verl.workers.config import FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import left_right_2_no_padding

from proma_bench.projection.config import ProjectionConfig

VOCABULARY, PROMPT, ANSWER = 61, 5, 7  # the longest prompt and answer
MICROBATCH, MICROBATCHES = 4, 3
PROMPTS = [0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7]  # of each sequence: 2, 3 and 4 different ones in the three microbatches
ENGINE = "actor_rollout_ref.actor.fsdp_config"
PROMA = [
    "actor_rollout_ref.actor._target_=proma_bench.integrations.verl.PromaActorConfig",
    "actor_rollout_ref.actor.policy_loss.loss_mode=proma",
    "actor_rollout_ref.actor.strategy=fsdp2",
    f"{ENGINE}.use_no_sync_for_gradient_accumulation=True",
    f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={MICROBATCH}",
]
CPU = [f"+{ENGINE}.mixed_precision={{param_dtype:fp32,reduce_dtype:fp32}}", f"{ENGINE}.use_torch_compile=False"]


class Case(NamedTuple):
    """model: options of VeRL's model; overrides: of its Hydra config; projection: what the oracle is to do.

    relative: the error that is allowed, of each tensor's norm.
    """

    model: dict[str, Any]
    overrides: list[str]
    projection: ProjectionConfig
    relative: float = 1e-5


CASES = {
    "padded": Case(
        {"use_remove_padding": False}, ["+actor_rollout_ref.actor.max_removed=0.1"], ProjectionConfig(max_removed=0.1)
    ),
    "packed": Case(
        {},
        ["+actor_rollout_ref.actor.projection=exact", "+actor_rollout_ref.actor.max_removed=null"],
        ProjectionConfig("exact", max_removed=None),
    ),
    "packed to a multiple, no checkpoints": Case(
        {"enable_gradient_checkpointing": False},
        ["actor_rollout_ref.actor.pad_to_length=True", f"{ENGINE}.pad_to_length_bucket=16"],
        ProjectionConfig(),
    ),
    "sequence-mean": Case({}, ["actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean"], ProjectionConfig()),
    "intra": Case(
        {},
        [
            "+actor_rollout_ref.actor.projection=intra",
            "+actor_rollout_ref.actor.projection_rank=2",
            "+actor_rollout_ref.actor.max_removed=null",
        ],
        ProjectionConfig("intra", max_removed=None, rank=2),
        relative=0.06,  # dominant directions depend on rounding where singular values are close; unprojected: 0.09
    ),
    "isopo": Case({}, ["+actor_rollout_ref.actor.projection=isopo"], ProjectionConfig()),
    "shrink": Case({}, ["+actor_rollout_ref.actor.projection=shrink"], ProjectionConfig()),
    "replicated": Case({}, [f"{ENGINE}.fsdp_size=1"], ProjectionConfig()),
    "bfloat16": Case({}, [f"{ENGINE}.mixed_precision.param_dtype=bf16"], ProjectionConfig(), relative=0.06),
    "LoRA": Case({"lora_rank": 3}, [], ProjectionConfig()),
    "another loss": Case(
        {},
        [
            "actor_rollout_ref.actor._target_=verl.workers.config.FSDPActorConfig",
            "actor_rollout_ref.actor.policy_loss.loss_mode=gpg",
        ],
        ProjectionConfig(shrinkage=0.0),
    ),
}


def actor_config(*overrides: str) -> Any:
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", [*PROMA, *CPU, *overrides])
    return omega_conf_to_dataclass(config.actor_rollout_ref.actor)


def adapted(module: Qwen3ForCausalLM) -> PeftModel:
    settings = LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=["q_proj", "down_proj"])
    adapted, generator = get_peft_model(module, settings), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapted


class Batch:
    """One process's sequences, of unequal length. advantages: [B]; tokens: a prompt and an answer each."""

    def __init__(self, rank: int) -> None:
        generator = torch.Generator().manual_seed(rank)
        size = MICROBATCH * MICROBATCHES
        lengths = torch.randint(2, PROMPT + 1, (max(PROMPTS) + 1,), generator=generator).tolist()
        prompts = [torch.randint(VOCABULARY, (length,), generator=generator) for length in lengths]
        self.prompts = [lengths[prompt] for prompt in PROMPTS]
        self.answers = torch.randint(1, ANSWER + 1, (size,), generator=generator).tolist()
        self.advantages = torch.randn(size, generator=generator)
        answers = [torch.randint(VOCABULARY, (length,), generator=generator) for length in self.answers]
        self.tokens = [torch.cat([prompts[i], answer]) for i, answer in zip(PROMPTS, answers, strict=True)]

    def answer_log_prob(self, module: torch.nn.Module, i: int) -> Tensor:
        """Of sequence i, alone."""
        tokens = self.tokens[i].unsqueeze(0)
        log_probs = module(tokens).logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])
        return log_probs[0, self.prompts[i] - 1 :].sum()

    def tensordict(self, ranks: int) -> TensorDict:
        """As VeRL's trainer makes it: prompts padded on the left, answers on the right, then cut to their length."""
        size = len(self.tokens)
        input_ids = torch.zeros(size, PROMPT + ANSWER, dtype=torch.long)
        attention = torch.zeros_like(input_ids)
        for row, mask, tokens, prompt in zip(input_ids, attention, self.tokens, self.prompts, strict=True):
            where = slice(PROMPT - prompt, PROMPT - prompt + len(tokens))
            row[where], mask[where] = tokens, 1
        mask = attention[:, PROMPT:].bool()
        data = TensorDict(
            {
                "input_ids": input_ids,
                "attention_mask": attention,
                "position_ids": (attention.cumsum(1) - 1).clamp_min(0),
                "prompts": input_ids[:, :PROMPT],
                "responses": input_ids[:, PROMPT:],
                "response_mask": mask,
                "old_log_probs": torch.zeros(size, ANSWER),
                "advantages": self.advantages[:, None] * mask,
            },
            batch_size=size,
        )
        data = left_right_2_no_padding(data)
        tensordict_utils.assign_non_tensor(data, temperature=1.0, global_batch_size=size * ranks)
        return data


def model_config(folder: Path, **options: Any) -> HFModelConfig:
    if "lora_rank" in options:
        options["lora_adapter_path"] = str(folder / "adapter")
    attention = {"attn_implementation": "sdpa"}
    return HFModelConfig(path=str(folder / "model"), load_tokenizer=False, override_config=attention, **options)


def engine_for(folder: Path, actor: Any, **options: Any) -> Any:
    engine = EngineRegistry.new(
        "language_model",
        actor.strategy,
        model_config=model_config(folder, **options),
        engine_config=actor.engine,
        optimizer_config=FSDPOptimizerConfig(lr=1e-3, total_training_steps=1),
        checkpoint_config=CheckpointConfig(),
    )
    engine.initialize()
    return engine


def full_gradients(engine: Any) -> dict[str, Tensor]:
    return {name: p.grad.full_tensor() for name, p in engine.module.named_parameters() if p.grad is not None}


def main(folder: Path, rank: int, ranks: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / f'store{ranks}'}", rank=rank, world_size=ranks)
    for name, case in CASES.items():
        actor = actor_config(*case.overrides)
        engine = engine_for(folder, actor, **case.model)
        data = Batch(rank).tensordict(ranks)
        tensordict_utils.assign_non_tensor(
            data,
            use_remove_padding=engine.use_remove_padding,
            use_dynamic_bsz=False,
            micro_batch_size_per_gpu=actor.ppo_micro_batch_size_per_gpu,
        )
        loss = partial(ppo_loss, config=actor)
        with engine.train_mode():
            engine.infer_batch(data, loss)
            for _ in range(2):  # what was before leaves nothing behind
                engine.optimizer_zero_grad()
                output = engine.forward_backward_batch(data, loss)
            gradients = full_gradients(engine)
        if rank == 0:
            save_file(gradients, folder / f"{name}, {ranks}.safetensors")
            metrics = {key: float(value) for key, value in reduce_metrics(output["metrics"]).items()}
            (folder / f"{name}, {ranks}.json").write_text(json.dumps(metrics))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
