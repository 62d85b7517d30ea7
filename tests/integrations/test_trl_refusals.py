"""What `PROMATrainer` refuses: a test of each setting, and of setups that it must not refuse."""

from __future__ import annotations

import dataclasses
import os
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")  # nothing is downloaded here, and nothing reported

pytest.importorskip("trl", reason="needs the extra [trl]")

import zoo
from causal_lm import norm_in_the_type_of_its_input, tiny_qwen3
from tiny_trl import PROMPTS, make_trainer, mixing_qwen3, tokenizer
from torch import nn
from transformers import GraniteMoeForCausalLM, ProcessorMixin
from transformers.distributed import DistributedConfig
from transformers.training_args import OptimizerNames
from trl import GRPOConfig

from proma_bench import ProjectionConfig
from proma_bench.integrations.trl import PROMAConfig, PROMATrainer, versions
from proma_bench.integrations.trl.refusals import CLIPS, REFUSED, refuse_settings, refuse_setup

__all__ = ["norm_in_the_type_of_its_input"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated and will be removed in v6:FutureWarning"),  # TRL uses the old name
]

OTHERS: dict[str, Any] = {
    "top_entropy_quantile": 0.2,
    "vllm_importance_sampling_mode": "token_truncate",
    "importance_sampling_level": "sequence",
    "num_iterations": 2,
    "off_policy_mask_threshold": 0.5,
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


CLIPPING: dict[str, Any] = {"epsilon": 0.1, "epsilon_high": 0.28, "delta": 1.5}


def test_every_clip_has_a_case() -> None:
    assert CLIPPING.keys() == CLIPS.keys()


@pytest.mark.parametrize("name", CLIPPING)
def test_clips_of_ratios_are_refused_off_policy_alone(tmp_path: Path, name: str) -> None:
    """On policy all ratios are one, within any of these bounds."""
    make_trainer(tmp_path, **{name: CLIPPING[name]})
    with pytest.raises(ValueError, match=rf"^{name}=.*steps_per_generation=6 is above gradient_accumulation_steps=3"):
        make_trainer(tmp_path, steps_per_generation=6, **{name: CLIPPING[name]})


def test_a_clip_of_ratios_of_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^delta=1.0 is not possible with PROMA: .*; it must be above 1, or None"):
        make_trainer(tmp_path, delta=1.0)


def test_what_is_grpos_default_may_be_written_out(tmp_path: Path) -> None:
    make_trainer(tmp_path, importance_sampling_level="token", epsilon=0.2)


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


PLAIN: dict[str, Any] = {
    "beta": 0.0,
    "entropy_coef": 0.0,
    "use_adaptive_entropy": False,
    "aux_loss_enabled": False,
    "router_aux_loss_coef": 0.001,
}


def setup(**changed: Any) -> SimpleNamespace:
    """As much of a trainer as its setup is judged by."""
    usual = {"processing_class": None, "is_fsdp_enabled": False} | PLAIN
    model = nn.Identity()
    model.config = SimpleNamespace(distributed_config=changed.pop("distributed_config", None))
    gradient_state = SimpleNamespace(plugin_kwargs=changed.pop("gradient_accumulation_kwargs", {}))
    accelerator = SimpleNamespace(is_fsdp2=changed.pop("is_fsdp2", False), gradient_state=gradient_state)
    args = SimpleNamespace(uncovered=changed.pop("uncovered", "refuse"))
    rule = ProjectionConfig(changed.pop("projection", "iterative"))
    return SimpleNamespace(**usual | {"model": model, "accelerator": accelerator, "args": args, "rule": rule} | changed)


FSDP2: dict[str, Any] = {"is_fsdp_enabled": True, "is_fsdp2": True}
REDUCED_ALWAYS: dict[str, Any] = {"gradient_accumulation_kwargs": {"num_steps": 1, "sync_each_batch": True}}
REPLICATED = DistributedConfig(fsdp_size=2, dp_replicate_size=2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (FSDP2 | {"uncovered": "autograd"}, "uncovered='autograd' is not possible with PROMA under FSDP2"),
        (FSDP2 | REDUCED_ALWAYS, "sync_each_batch=True is not possible with PROMA under FSDP2: "),
        (FSDP2 | {"aux_loss_enabled": True}, "router_aux_loss_coef=0.001 is not possible with PROMA under FSDP2"),
        (FSDP2 | {"beta": 0.1}, "beta=0.1 is not possible with PROMA under FSDP2"),
        (FSDP2 | {"entropy_coef": 0.1}, "entropy_coef=0.1 is not possible with PROMA under FSDP2"),
        (FSDP2 | {"use_adaptive_entropy": True}, "use_adaptive_entropy=True is not possible with PROMA under FSDP2"),
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
        {"beta": 0.1, "entropy_coef": 0.1, "use_adaptive_entropy": True, "aux_loss_enabled": True},
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


# --------------------------------------------------------------------------------------------- when the trainer is made


def test_a_model_that_proma_cannot_train_is_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    message = r"PROMA cannot train this Qwen3ForCausalLM: .* mixes the rows .* set uncovered='autograd' in PROMAConfig"
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, model=mixing_qwen3())


def test_a_model_that_cannot_be_called_is_refused(tmp_path: Path) -> None:
    model = tiny_qwen3(torch.float64)
    model.lm_head = nn.Linear(3, 61, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"PROMA cannot train this Qwen3ForCausalLM: .*size"):
        make_trainer(tmp_path, model=model)


@pytest.mark.filterwarnings("ignore")
def test_a_mixture_of_experts_without_an_auxiliary_loss_is_refused_at_once(tmp_path: Path) -> None:
    with zoo.precision(torch.float64):
        model = zoo.build(GraniteMoeForCausalLM, torch.float64)
        with pytest.raises(ValueError, match=r"other terms of its loss: .*; router_aux_loss_coef=0.0 switches its aux"):
            make_trainer(tmp_path, model=model, router_aux_loss_coef=0.5)


def test_the_trial_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither gradients nor another random state, mode or weight."""
    states = []
    monkeypatch.setattr(
        "proma_bench.integrations.trl.trainer.refuse_setup", lambda _: states.append(torch.get_rng_state())
    )
    model = tiny_qwen3(torch.float64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = make_trainer(tmp_path, model=model)
    assert torch.equal(states[0], torch.get_rng_state())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    assert not any("forward" in vars(module) and "proma" in str(module.forward) for module in trainer.model.modules())


@pytest.mark.parametrize("name", ["_compute_loss", "_get_per_token_logps_and_entropies"])
def test_a_loss_that_would_not_be_called_is_refused(tmp_path: Path, name: str) -> None:
    subclass = type("Mine", (PROMATrainer,), {name: lambda self, *args, **options: None})
    with pytest.raises(TypeError, match=f"Mine overrides {name}, which PROMATrainer does not call"):
        make_trainer(tmp_path, subclass)


# ------------------------------------------------------------------------------------------------------- versions


def test_all_settings_of_the_pinned_versions_were_looked_at() -> None:
    """A newer TRL or transformers fails here: read what its settings do, refuse or add them."""
    earlier = {"warmup_ratio", "group_by_length", "logging_dir"}
    assert {field.name for field in dataclasses.fields(GRPOConfig)} | earlier == versions.SETTINGS


def test_a_setting_that_is_newer_is_refused_unless_it_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "SETTINGS", versions.SETTINGS - {"top_k", "pad_to_multiple_of"})
    make_trainer(tmp_path)  # among them one whose default is resolved to something else
    with pytest.raises(ValueError, match=r"^top_k=5 is not possible with PROMA: the setting is newer than TRL 1.16"):
        make_trainer(tmp_path, top_k=5)


@pytest.mark.parametrize("found", ["1.15.0", "2.0.0", None])
def test_another_trl_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch, found: str | None) -> None:
    def version(_: str) -> str:
        if found is None:
            raise PackageNotFoundError
        return found

    monkeypatch.setattr(versions, "version", version)
    wanted = "which is not installed" if found is None else f"TRL 1.16 or a later 1.x, found {found}"
    with pytest.raises(ImportError, match=rf'{wanted}: python -m pip install "trl>=1.16,<2"'):
        versions.require_trl()


def test_the_oldest_trl_is_the_same_everywhere() -> None:
    root = Path(__file__).parents[2]
    assert f'"trl>={versions.OLDEST},<{versions.TOO_NEW}"' in (root / "pyproject.toml").read_text()
    assert f"--no-deps trl=={versions.OLDEST}.0\n" in (root / "tox.ini").read_text()


def test_a_newer_trl_is_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"checked with TRL 1.16, found 1.17.1: settings that are new"):
        versions.warn_if_unchecked("1.17.1")
    versions.warn_if_unchecked("1.16.3")
