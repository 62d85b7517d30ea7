"""The VeRL plug-in: it is found by its entry point, its gradients are the oracle's, and what it refuses is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import re
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
from rule_oracles import isopo, literal_gradients, shrink
from safetensors.torch import load_file
from torch import Tensor

from proma_bench.projection.config import ProjectionConfig

if importlib.util.find_spec("verl") is None:
    pytest.skip("VeRL is not installed; `tox -e verl` installs it", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import verl_questions
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf
    from tensordict import TensorDict
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


RULES = {"isopo": isopo(1.0), "shrink": shrink(ProjectionConfig())}


@cache
def expected(
    projection: ProjectionConfig, ranks: int, *, by_sequence: bool = False, lora: bool = False, rule: str = ""
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
    oracle: Any = intra_gradients if projection.method == "intra" else oracle_gradients
    step: Any = projection
    if rule:
        oracle, step = literal_gradients, RULES[rule]
    alone = [oracle(module, list(micros(batch)), step) for batch in batches]
    return {name: torch.stack([gradients[name] for gradients in alone]).mean(0) for name in alone[0]}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_the_oracles(name: str, ranks: int, runs: Path) -> None:
    case = CASES[name]
    options = {"by_sequence": name == "sequence-mean", "lora": name == "LoRA", "rule": name if name in RULES else ""}
    wanted = expected(case.projection, ranks, **options)
    assert_near(load_file(runs / f"{name}, {ranks}.safetensors"), wanted, case.relative)
    metrics = json.loads((runs / f"{name}, {ranks}.json").read_text())
    if name == "another loss":
        assert "actor/removed_ratio" not in metrics
    else:
        assert 0 < metrics["actor/removed_ratio"] < 1
        if name == "padded":  # whose clamp is tight
            assert 0 < metrics["actor/clamped"] < 1
        elif case.projection.max_removed is None or name == "isopo":
            assert metrics["actor/clamped"] == 0
        assert metrics["actor/prompts_per_microbatch"] == (2 + 3 + 4) / 3
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
    "actor.ppo_epochs": ["actor.ppo_epochs=4"],
    "actor.clip_ratio": ["actor.clip_ratio=0.1"],
    "actor.clip_ratio_low": ["actor.clip_ratio_low=0.1"],
    "actor.clip_ratio_high": ["actor.clip_ratio_high=0.28"],
    "actor.clip_ratio_c": ["actor.clip_ratio_c=10"],
    "actor.tau_pos": ["actor.tau_pos=2"],
    "actor.tau_neg": ["actor.tau_neg=2"],
    "actor.policy_loss.ppo_kl_coef": ["actor.policy_loss.ppo_kl_coef=1"],
    "actor.policy_loss.dro_beta": ["actor.policy_loss.dro_beta=0.1"],
    "actor.loss_scale_factor": ["actor.loss_agg_mode=seq-mean-token-sum-norm"],
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
    with pytest.raises(Exception, match=rf"PROMA needs actor_rollout_ref\.{setting}[= ]"):
        actor_config(*(_of_the_actor(override) for override in REFUSED[setting]))


def _of_the_actor(override: str) -> str:
    """With the ``+`` of a setting that is new to VeRL's configuration in front."""
    return f"+actor_rollout_ref.{override[1:]}" if override.startswith("+") else f"actor_rollout_ref.{override}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("projection=qr", "use 'exact'"),
        ("projection=isopoo", "none of exact, .*isopo"),
        ("projection=elsewhere", "needs all microbatches in one backward pass"),
        ("projection=isopo,+actor_rollout_ref.actor.sweeps=3", "sweeps=3 has no effect on the update rule isopo"),
        ("sweeps=0", "sweeps must be"),
        ("max_removed=-1", "max_removed must be"),
        ("shrinkage=2", "shrinkage must lie"),
        ("projection_rank=-1", "rank must be"),
        ("uncovered=autogard", "uncovered must be 'refuse' or 'autograd'"),
    ],
)
def test_a_setting_of_proma_out_of_range_is_refused(override: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        actor_config(*f"+actor_rollout_ref.actor.{override}".split(","))


def loss_of(advantages: Tensor, **options: Any) -> Any:
    """The policy loss of two answers, the second a token shorter, inside of an engine's forward step."""
    mask = torch.tensor([[True, True, True], [True, True, False]])
    log_prob = torch.full((2, 3), -1.0, requires_grad=True)
    options = {"config": actor_config()} | options
    handed_over: list[tuple[Tensor, Tensor]] = []
    token = plugin._handed_over.set(handed_over)
    try:
        loss, _ = get_policy_loss_fn("proma")(torch.zeros(2, 3), log_prob, advantages, mask, **options)
    finally:
        plugin._handed_over.reset(token)
    ((_, of_sequences),) = handed_over
    return loss, of_sequences


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


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_prompts_are_counted_once_and_only_with_an_answer(layout: torch.layout) -> None:
    prompts = [torch.tensor([1, 2]), torch.tensor([1, 2]), torch.tensor([2, 1]), torch.tensor([3, 3])]
    masks = [torch.tensor([1]), torch.tensor([0]), torch.tensor([1]), torch.tensor([0])]
    rows = {"prompts": prompts, "response_mask": masks}
    columns = {name: torch.nested.as_nested_tensor(each, layout=torch.jagged) for name, each in rows.items()}
    if layout == torch.strided:
        columns = {name: torch.stack(each) for name, each in rows.items()}
    assert plugin._different_prompts(TensorDict(columns, batch_size=4)) == 2


def test_the_norm_of_sequences_needs_a_constant() -> None:
    mode = "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm"
    config = actor_config(mode, "actor_rollout_ref.actor.loss_scale_factor=7")
    config.global_batch_info.update(global_batch_size=2, loss_scale_factor=config.loss_scale_factor)
    loss, _ = loss_of(torch.ones(2, 3), config=config, loss_agg_mode=config.loss_agg_mode)
    assert loss.item() == pytest.approx(5 / 2 / 7)  # five tokens, two sequences


def test_the_loss_is_refused_outside_of_the_engine() -> None:
    """There it would silently lose the advantages."""
    with pytest.raises(RuntimeError, match=r"PromaActorConfig .*VERL_ENGINE_VENDOR"):
        get_policy_loss_fn("proma")(*[torch.ones(2, 3)] * 3, torch.ones(2, 3, dtype=torch.bool), config=actor_config())


def test_distillation_is_refused() -> None:
    config = actor_config()
    assert plugin._proma_config(partial(ppo_loss, config=config)) is config
    with pytest.raises(ValueError, match=r"distillation\.enabled=False"):
        plugin._proma_config(partial(distillation_ppo_loss, config=config))


# ----------------------------------------------------------------------------------------- the printed commands

ACTOR = "actor_rollout_ref.actor"
SMALL = [
    "actor_rollout_ref.model.path={folder}/model",
    "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
    f"{ACTOR}.fsdp_config.mixed_precision.param_dtype=fp32",
    f"{ACTOR}.fsdp_config.use_torch_compile=False",
    f"{ACTOR}.ppo_mini_batch_size=2",
    f"{ACTOR}.optim.lr=1e-2",
    "data.dataloader_num_workers=0",
    "data.train_batch_size=4",
    "data.max_prompt_length=128",
    "data.max_response_length=32",
    "actor_rollout_ref.rollout.agent.num_workers=1",
    "reward.num_workers=1",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    "ray_kwargs.ray_init.num_cpus=12",
    "+ray_kwargs.ray_init.num_gpus=1",  # of which Ray takes our word
    "+ray_kwargs.ray_init.include_dashboard=False",
    "+ray_kwargs.ray_init.address=local",  # whatever else runs on the machine
    "trainer.total_training_steps=1",
    "trainer.logger=[file]",
]
"""What a tiny model on a machine without a GPU needs; all else is the script's."""


def test_a_step_of_the_examples_command(tmp_path: Path) -> None:
    """Trainer, queue, agent loop, reward, balancing, two optimizer steps of two microbatches: all but vLLM."""
    environment = ON_A_CPU | {
        "VERL_USE_EXTERNAL_MODULES": "verl_cpu,verl_rollout",
        "PYTHON": sys.executable,
        "RAY_enable_worker_prestart": "0",  # or it starts a process for each CPU that it was told of
        "RAY_prestart_worker_first_driver": "0",
    }
    verl_questions.write(tmp_path)
    overrides = [override.format(folder=tmp_path) for override in SMALL]
    command = ["bash", str(EXAMPLES / "verl_gsm8k.sh"), *overrides]
    run = subprocess.run(
        command, cwd=tmp_path, env=os.environ | environment | {"DATA": str(tmp_path)}, capture_output=True, text=True
    )
    assert run.returncode == 0, (run.stdout + run.stderr)[-8000:]
    steps = [json.loads(line) for line in (tmp_path / "proma" / "gsm8k.jsonl").read_text().splitlines()]
    (metrics,) = (step["data"] for step in steps if "actor/removed_ratio" in step["data"])
    assert 0 < metrics["actor/removed_ratio"] < 1
    assert 0 <= metrics["actor/clamped"] <= 1
    assert 1 < metrics["actor/prompts_per_microbatch"] <= 4  # answers come in the order in which they are finished
    assert 0 < metrics["critic/score/mean"] < 1
    assert metrics["actor/grad_norm"] > 0


def test_the_example_is_the_papers_run(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").touch()
    environment = {"DATA": str(tmp_path), "PYTHON": sys.executable, "PYTHONWARNINGS": "ignore"}
    command = ["bash", EXAMPLES / "verl_gsm8k.sh", "trainer.n_gpus_per_node=2", "--cfg", "job", "--resolve"]
    output = subprocess.run(
        command, env=os.environ | environment, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    config = OmegaConf.create(output.stdout)
    validate_config(config, use_reference_policy=False, use_critic=False)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert actor.update_rule == ProjectionConfig("iterative", 2, 0.5, 1.0)
    assert config.trainer.n_gpus_per_node == 2


def test_the_overrides_in_the_docs_are_a_run_that_verl_accepts() -> None:
    command = re.search(
        r"python -m verl\.trainer\.main_ppo \\\n((?: {8}\S+(?: \\)?\n)+)", (ROOT / "docs/verl.md").read_text()
    )
    assert command
    overrides = command[1].replace("\\", "").split()
    assert len(overrides) == 8
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides)
    validate_config(config, use_reference_policy=False, use_critic=False)
    assert omega_conf_to_dataclass(config.actor_rollout_ref.actor).update_rule == ProjectionConfig()


def test_the_examples_data_is_scored_by_verl() -> None:
    module = verl_questions.example_data()
    solution = "He has 500*3=<<500*3=1500>>1500.\n#### 1,500"
    row = module.row({"question": "How many?", "answer": solution})
    assert row["prompt"][0]["content"].startswith("How many? Let's")
    truth = row["reward_model"]["ground_truth"]
    assert default_compute_score(row["data_source"], solution, truth) == 1
    assert default_compute_score(row["data_source"], "1500", truth) == 0
