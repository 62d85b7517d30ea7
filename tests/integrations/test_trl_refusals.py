"""What `PROMATrainer` refuses: a test of each setting, and of setups that it must not refuse."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")  # nothing is downloaded here, and nothing reported

pytest.importorskip("trl", reason="needs the extra [trl]")

from causal_lm import norm_in_the_type_of_its_input, tiny_qwen3
from tiny_trl import PROMPTS, make_trainer, tokenizer
from torch import nn
from transformers import ProcessorMixin
from transformers.distributed import DistributedConfig
from transformers.training_args import OptimizerNames
from trl import GRPOConfig

from proma_bench.integrations.trl import PROMAConfig, PROMATrainer
from proma_bench.integrations.trl.refusals import REFUSED, refuse_settings, refuse_setup

__all__ = ["norm_in_the_type_of_its_input"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated and will be removed in v6:FutureWarning"),  # TRL uses the old name
]

OTHERS: dict[str, Any] = {
    "beta": 0.1,
    "entropy_coef": 0.1,
    "use_adaptive_entropy": True,
    "top_entropy_quantile": 0.2,
    "vllm_importance_sampling_mode": "token_truncate",
    "importance_sampling_level": "token",
    "num_iterations": 2,
    "off_policy_mask_threshold": 0.5,
    "epsilon": 0.1,
    "epsilon_high": 0.28,
    "delta": 1.5,
    "loss_type": "cispo",
    "cast_lm_head_to_fp32": True,
    "use_liger_kernel": True,
    "torch_compile": True,
}


def test_every_refusal_has_a_case() -> None:
    assert OTHERS.keys() == REFUSED.keys()


@pytest.mark.parametrize("name", OTHERS)
def test_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}=.* is not possible with PROMA: "):
        make_trainer(tmp_path, **{name: OTHERS[name]})


def refusal(tmp_path: Path, **changed: Any) -> str:
    """Of settings that cannot be made here, or not together, but can arrive."""
    args = PROMAConfig(str(tmp_path), use_cpu=True, activation_checkpointing=False)
    for name, value in changed.items():
        setattr(args, name, value)
    with pytest.raises(ValueError) as caught:
        refuse_settings(args)
    return str(caught.value)


@pytest.mark.parametrize("optimizer", ["lomo", "adalomo", "galore_adamw_layerwise"])
def test_optimizers_within_the_backward_pass_are_refused(tmp_path: Path, optimizer: str) -> None:
    assert refusal(tmp_path, optim=OptimizerNames(optimizer)).startswith(f"optim='{optimizer}' is not possible")


def test_deepspeed_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, deepspeed_plugin=object()).startswith("deepspeed is not possible with PROMA")


def test_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sweeps must be"):
        make_trainer(tmp_path, sweeps=0)
    assert refusal(tmp_path, uncovered="autogard") == "uncovered must be 'refuse' or 'autograd', got 'autogard'"


def test_settings_of_grpo_are_no_settings_of_proma(tmp_path: Path) -> None:
    args = GRPOConfig(str(tmp_path), use_cpu=True, activation_checkpointing=False)
    with pytest.raises(TypeError, match="args must be a PROMAConfig, got GRPOConfig"):
        PROMATrainer(tiny_qwen3(torch.float32), lambda **_: [0.0], args, PROMPTS, processing_class=tokenizer())


def setup(**changed: Any) -> SimpleNamespace:
    """As much of a trainer as its setup is judged by."""
    usual = {"aux_loss_enabled": False, "router_aux_loss_coef": 0.0, "processing_class": None, "is_fsdp_enabled": False}
    model = nn.Identity()
    model.config = SimpleNamespace(distributed_config=changed.pop("distributed_config", None))
    gradient_state = SimpleNamespace(plugin_kwargs=changed.pop("gradient_accumulation_kwargs", {}))
    accelerator = SimpleNamespace(is_fsdp2=changed.pop("is_fsdp2", False), gradient_state=gradient_state)
    defaults = {"projection": "iterative", "uncovered": "refuse"}
    args = SimpleNamespace(**{name: changed.pop(name, value) for name, value in defaults.items()})
    return SimpleNamespace(**usual | {"model": model, "accelerator": accelerator, "args": args} | changed)


FSDP2: dict[str, Any] = {"is_fsdp_enabled": True, "is_fsdp2": True}
REDUCED_ALWAYS: dict[str, Any] = {"gradient_accumulation_kwargs": {"num_steps": 1, "sync_each_batch": True}}
REPLICATED = DistributedConfig(fsdp_size=2, dp_replicate_size=2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (FSDP2 | {"uncovered": "autograd"}, "uncovered='autograd' is not possible with PROMA under FSDP2"),
        (FSDP2 | REDUCED_ALWAYS, "sync_each_batch=True is not possible with PROMA under FSDP2: "),
        ({"aux_loss_enabled": True, "router_aux_loss_coef": 0.01}, "router_aux_loss_coef=0.01 is not possible"),
        ({"processing_class": ProcessorMixin()}, "processing_class is a processor for images"),
        ({"is_fsdp_enabled": True}, "fsdp_version 1 is not possible"),
        ({"distributed_config": DistributedConfig(tp_size=2)}, "distributed_config.tp_size=2 is not possible"),
        ({"distributed_config": DistributedConfig(pp_size=2)}, "distributed_config.pp_size=2 is not possible"),
        ({"distributed_config": REPLICATED}, "distributed_config.dp_replicate_size=2 is not possible"),
    ],
)
def test_setups_that_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_setup(setup(**changed))


INTRA = {"projection": "intra"}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"uncovered": "autograd"},
        FSDP2,
        REDUCED_ALWAYS,
        FSDP2 | REDUCED_ALWAYS | INTRA,
        {"distributed_config": REPLICATED} | INTRA,
    ],
)
def test_setups_that_are_possible(changed: dict[str, Any]) -> None:
    """Under DistributedDataParallel every rank has all of a reduced gradient; intra needs no running one."""
    refuse_setup(setup(**changed))


def test_a_model_that_proma_cannot_be_attached_to_is_refused_at_once(tmp_path: Path) -> None:
    model = tiny_qwen3(torch.float32)
    model.extra = nn.Linear(3, 3, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"parameter 'extra.weight' is complex"):
        make_trainer(tmp_path, model=model)
