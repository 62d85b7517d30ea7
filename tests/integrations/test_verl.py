"""The VeRL plug-in: it is found by its entry point, its gradients are the oracle's, and what it refuses is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from causal_lm import tiny_qwen3
from oracle import Micro, assert_near, intra_gradients, oracle_gradients
from safetensors.torch import load_file
from torch import Tensor

from proma_bench.projection.config import ProjectionConfig

if importlib.util.find_spec("verl") is None:
    pytest.skip("VeRL is not installed; `tox -e verl` installs it", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from omegaconf import OmegaConf
    from verl.trainer.distillation import distillation_ppo_loss
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.utils.config import omega_conf_to_dataclass, validate_config
    from verl.utils.reward_score import default_compute_score
    from verl.workers.utils.losses import ppo_loss
    from verl_runs import CASES, MICROBATCH, MICROBATCHES, Batch, actor_config, adapted

    from proma_bench.integrations import verl as plugin

ROOT = Path(__file__).parents[2]
HELPERS, EXAMPLES = ROOT / "tests" / "helpers", ROOT / "examples"
ON_A_CPU = {
    "VERL_USE_EXTERNAL_MODULES": "verl_cpu",
    "VERL_PLATFORM": "cpu",
    "VERL_ENGINE_DEVICE": "cuda",  # the key under which the engine is registered
    "VERL_ENGINE_VENDOR": "nvidia",
    "PYTHONPATH": str(HELPERS),
    "PYTHONWARNINGS": "ignore",
    "OMP_NUM_THREADS": "1",
}


def started(*arguments: object, folder: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=os.environ | environment, **pipes)


def finished(process: subprocess.Popen[str], seconds: float = 240) -> str:
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, output[-4000:]
    return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verl")
    tiny_qwen3(torch.float32).save_pretrained(path / "model")
    adapted(tiny_qwen3(torch.float32)).save_pretrained(path / "adapter")
    return path


# ------------------------------------------------------------------------------------------------ found by VeRL

FIND = """
from verl.workers.engine import EngineRegistry
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
print(EngineRegistry.get_engine_cls("language_model", "fsdp2").__name__, "proma" in POLICY_LOSS_REGISTRY)
"""


@pytest.mark.parametrize(("plugins", "found"), [("auto", "PromaEngine True"), ("none", "FSDPEngineWithLMHead False")])
def test_the_entry_point_alone_makes_verl_find_it(plugins: str, found: str, tmp_path: Path) -> None:
    environment = {"VERL_ENGINE_DEVICE": "cuda", "VERL_ENGINE_VENDOR": "nvidia", "VERL_USE_EXTERNAL_PLUGINS": plugins}
    assert finished(started("-c", FIND, folder=tmp_path, **environment)).splitlines()[-1] == found


# ---------------------------------------------------------------------------------------------------- gradients


@pytest.fixture(scope="module")
def runs(folder: Path) -> Path:
    script, places = HELPERS / "verl_runs.py", [(0, 1), (0, 2), (1, 2)]
    for process in [started(script, folder, *place, folder=folder, **ON_A_CPU) for place in places]:
        finished(process)
    return folder


@cache
def expected(
    projection: ProjectionConfig, ranks: int, *, by_sequence: bool = False, lora: bool = False
) -> dict[str, Tensor]:
    """The mean over ranks of what each, alone, must have; a sequence's log-prob weighed as VeRL weighs its loss."""
    batches = [Batch(rank) for rank in range(ranks)]
    tokens = sum(sum(batch.answers) for batch in batches)
    sequences = ranks * MICROBATCH * MICROBATCHES

    def micros(batch: Batch) -> Iterator[Micro]:
        def log_prob(module: torch.nn.Module, i: int, start: int) -> Tensor:
            weight = 1 / (batch.answers[start + i] * sequences) if by_sequence else 1 / tokens
            return ranks * weight * batch.answer_log_prob(module, start + i)

        for start in range(0, len(batch.tokens), MICROBATCH):
            yield Micro(partial(log_prob, start=start), batch.advantages[start : start + MICROBATCH])

    module = (adapted(tiny_qwen3(torch.float32)) if lora else tiny_qwen3(torch.float32)).double()
    oracle = intra_gradients if projection.method == "intra" else oracle_gradients
    alone = [oracle(module, list(micros(batch)), projection) for batch in batches]
    return {name: torch.stack([gradients[name] for gradients in alone]).mean(0) for name in alone[0]}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_the_oracles(name: str, ranks: int, runs: Path) -> None:
    case = CASES[name]
    wanted = expected(case.projection, ranks, by_sequence=name == "sequence-mean", lora=name == "LoRA")
    assert_near(load_file(runs / f"{name}, {ranks}.safetensors"), wanted, case.relative)
    metrics = json.loads((runs / f"{name}, {ranks}.json").read_text())
    if name == "another loss":
        assert "actor/removed_ratio" not in metrics
    else:
        assert 0 < metrics["actor/removed_ratio"] < 1
        assert (0 < metrics["actor/clamped"] < 1) == (case.projection.max_removed is not None)
        assert metrics["actor/ppo_kl"] > 0


def test_a_ray_worker_group_updates_the_weights_by_the_oracles_gradient(folder: Path) -> None:
    finished(started(HELPERS / "verl_ray.py", folder, folder=folder, **ON_A_CPU))
    assert_near(load_file(folder / "ray.safetensors"), expected(ProjectionConfig(), 2), 1e-5)
    removed = json.loads((folder / "ray.json").read_text())["actor/removed_ratio"]
    assert len(removed) == 2 and all(0 < ratio < 1 for ratio in removed)  # one of each worker


# ----------------------------------------------------------------------------------------------------- refusals

REFUSED = {
    "actor.strategy": ["actor.strategy=fsdp"],
    "actor.policy_loss.loss_mode": ["actor.policy_loss.loss_mode=gspo"],
    "actor.entropy_coeff": ["actor.entropy_coeff=0.01"],
    "actor.use_kl_loss": ["actor.use_kl_loss=True"],
    "actor.use_dynamic_bsz": ["actor.use_dynamic_bsz=True"],
    "model.use_fused_kernels": ["model.use_fused_kernels=True"],
    "actor.use_prefix_grouper": ["actor.use_prefix_grouper=True"],
    "actor.ulysses_sequence_parallel_size": ["actor.ulysses_sequence_parallel_size=2"],
    "actor.fsdp_config.use_no_sync_for_gradient_accumulation": [
        "actor.fsdp_config.use_no_sync_for_gradient_accumulation=False"
    ],
    "actor.uncovered": ["+actor.uncovered=autograd"],
    "actor.fsdp_config.qat.enable": ["actor.fsdp_config.qat.enable=True"],
}


@pytest.mark.parametrize("setting", REFUSED)
def test_a_setting_that_cannot_be_is_refused_by_name(setting: str) -> None:
    with pytest.raises(Exception, match=rf"PROMA needs actor_rollout_ref\.{setting}="):
        actor_config(*(_of_the_actor(override) for override in REFUSED[setting]))


def _of_the_actor(override: str) -> str:
    """With the ``+`` of a setting that is new to VeRL's configuration in front."""
    return f"+actor_rollout_ref.{override[1:]}" if override.startswith("+") else f"actor_rollout_ref.{override}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("projection=qr", "use 'exact'"),
        ("sweeps=0", "sweeps must be"),
        ("max_removed=-1", "max_removed must be"),
        ("shrinkage=2", "shrinkage must lie"),
        ("projection_rank=-1", "rank must be"),
        ("uncovered=autogard", "uncovered must be 'refuse' or 'autograd'"),
    ],
)
def test_a_setting_of_proma_out_of_range_is_refused(override: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        actor_config(f"+actor_rollout_ref.actor.{override}")


def loss_of(advantages: Tensor, **options: Any) -> Any:
    """The policy loss of two answers, the second a token shorter, inside of an engine's forward step."""
    mask = torch.tensor([[True, True, True], [True, True, False]])
    log_prob = torch.full((2, 3), -1.0, requires_grad=True)
    handed_over: list[Tensor] = []
    token = plugin._handed_over.set(handed_over)
    try:
        loss, _ = get_policy_loss_fn("proma")(
            torch.zeros(2, 3), log_prob, advantages, mask, config=actor_config(), **options
        )
    finally:
        plugin._handed_over.reset(token)
    return loss, *handed_over


def test_the_loss_has_no_advantages_in_it_and_hands_them_over() -> None:
    loss, advantages = loss_of(torch.tensor([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]]))
    assert loss.item() == 1.0
    assert advantages.tolist() == [2.0, -1.0]


def test_advantages_of_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"algorithm\.adv_estimator"):
        loss_of(torch.tensor([[2.0, 1.0, 2.0], [-1.0, -1.0, 0.0]]))


def test_weights_of_rollout_correction_are_refused() -> None:
    with pytest.raises(ValueError, match=r"algorithm\.rollout_correction\.rollout_is=null"):
        loss_of(torch.ones(2, 3), rollout_is_weights=torch.ones(2, 3))


def test_an_answer_without_tokens_has_advantage_zero() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    assert plugin._sequence_advantages(torch.tensor([[3.0, 0.0], [5.0, 5.0]]), mask).tolist() == [3.0, 0.0]


def test_the_loss_is_refused_outside_of_the_engine() -> None:
    """There it would silently lose the advantages."""
    with pytest.raises(RuntimeError, match=r"PromaActorConfig .*VERL_ENGINE_VENDOR"):
        get_policy_loss_fn("proma")(*[torch.ones(2, 3)] * 3, torch.ones(2, 3, dtype=torch.bool), config=actor_config())


def test_distillation_is_refused() -> None:
    config = actor_config()
    assert plugin._proma_config(partial(ppo_loss, config=config)) is config
    with pytest.raises(ValueError, match=r"distillation\.enabled=False"):
        plugin._proma_config(partial(distillation_ppo_loss, config=config))


# ------------------------------------------------------------------------------------------------------ example


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What VeRL's command makes of the script's overrides, and of one more."""
    data = tmp_path_factory.mktemp("gsm8k")
    (data / "train.parquet").touch()
    environment = {"DATA": str(data), "PYTHON": sys.executable, "PYTHONWARNINGS": "ignore"}
    command = ["bash", EXAMPLES / "verl_gsm8k.sh", "trainer.n_gpus_per_node=2", "--cfg", "job", "--resolve"]
    output = subprocess.run(command, env=os.environ | environment, cwd=data, check=True, capture_output=True, text=True)
    return OmegaConf.create(output.stdout)


def test_the_example_is_a_run_that_verl_accepts(example: Any) -> None:
    validate_config(example, use_reference_policy=False, use_critic=False)
    actor = omega_conf_to_dataclass(example.actor_rollout_ref.actor)
    assert actor.projection_config == ProjectionConfig("iterative", 2, 0.5, 1.0)
    assert example.trainer.n_gpus_per_node == 2


def test_the_examples_data_is_scored_by_verl() -> None:
    spec = importlib.util.spec_from_file_location("verl_gsm8k_data", EXAMPLES / "verl_gsm8k_data.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    solution = "He has 500*3=<<500*3=1500>>1500.\n#### 1,500"
    row = module.row({"question": "How many?", "answer": solution})
    assert row["prompt"][0]["content"].startswith("How many? Let's")
    truth = row["reward_model"]["ground_truth"]
    assert default_compute_score(row["data_source"], solution, truth) == 1
    assert default_compute_score(row["data_source"], "1500", truth) == 0
