"""PROMA in TRL with two processes on a CPU: every rank projects its own running gradient, and the averages follow.

One pair of processes runs every case; the tests look at what it left.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")  # nothing is downloaded here, and nothing reported

pytest.importorskip("trl", reason="needs the extra [trl]")

from oracle import oracle_gradients
from test_backward_transformer import norm_forward, tiny_qwen3
from tiny_trl import LORA, MICROBATCHES, at, make_trainer, micros, own_tokens
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from proma_bench import ProjectionConfig

RANKS = 2
Results = dict[str, Any]


class Case(NamedTuple):
    """sharded: with FSDP2, by transformers as it loads the model; otherwise it is accelerate's DistributedDataParallel.

    accelerate's own FSDP2 plugin is for GPUs only.
    """

    sharded: bool = False
    tied: bool = True
    lora: bool = False
    checkpointed: bool = False
    learns: bool = False


CASES = {
    "ddp": Case(),
    "ddp, checkpointed": Case(checkpointed=True),
    "ddp, lora": Case(lora=True),
    "ddp, lora, checkpointed": Case(lora=True, checkpointed=True),
    "ddp, twenty steps": Case(learns=True),
    "fsdp": Case(sharded=True),
    "fsdp, untied": Case(sharded=True, tied=False),
    "fsdp, checkpointed": Case(sharded=True, checkpointed=True),
    "fsdp, lora": Case(sharded=True, lora=True),
    "fsdp, twenty steps": Case(sharded=True, learns=True),
}


def run(case: Case, folder: Path) -> Results:
    dtype = torch.float32 if case.learns else torch.float64
    model: Any = tiny_qwen3(dtype, tied=case.tied)
    if case.sharded:
        config = DistributedConfig(fsdp_size=RANKS)
        model = AutoModelForCausalLM.from_pretrained(
            folder / f"tied-{case.tied}", dtype=dtype, distributed_config=config
        )
    settings: dict[str, Any] = {"activation_checkpointing": case.checkpointed, "ddp_backend": "gloo"}
    if case.learns:
        settings |= {"max_steps": 20, "learning_rate": 0.01, "lr_scheduler_type": "constant"}
    trainer = make_trainer(folder / "out", model=model, lora=case.lora, **settings)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "reward" in entry]
    parts = {type(part) for part in trainer.model_wrapped.modules()}
    wrapped = {
        kind.__name__ for kind in (DistributedDataParallel, FSDPModule) if any(issubclass(p, kind) for p in parts)
    }
    found = {"log": log, "wrapped": list(wrapped)}
    return found if case.learns else found | compared(trainer, case)


def compared(trainer: Any, case: Case) -> Results:
    """What the gradients were, and the oracle's of this rank alone: after all microbatches, and before the last."""
    from peft import get_peft_model

    model: Any = tiny_qwen3(torch.float64, tied=case.tied)
    model = at(get_peft_model(model, LORA) if case.lora else model, trainer.states[0])
    tokens = torch.stack([own_tokens(inputs).sum() for inputs in trainer.seen]).sum()
    dist.all_reduce(tokens)
    own = micros(trainer.seen, lambda step, m, i: RANKS / int(tokens), trainer.temperature)
    return {
        "gradients": trainer.gradients[0],
        "before_last": trainer.before_last,
        "oracle": oracle_gradients(model, own, ProjectionConfig()),
        "oracle_before_last": oracle_gradients(model, own[:-1], ProjectionConfig()),
        "microbatches": len(own),
    }


def worker(rank: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what the single process is strict about
    Qwen3RMSNorm.forward = norm_forward
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    for number, case in enumerate(CASES.values()):
        torch.save(run(case, folder), folder / f"{number}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Results]]:
    """By case, what each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    for tied in (True, False):
        tiny_qwen3(torch.float64, tied=tied).save_pretrained(folder / f"tied-{tied}")
    mp.spawn(worker, args=(folder, free_port()), nprocs=RANKS)
    return {
        name: [torch.load(folder / f"{number}-{rank}.pt", weights_only=True) for rank in range(RANKS)]
        for number, name in enumerate(CASES)
    }


def free_port() -> int:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)
    return store.port


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        error = float((found[name] - gradient).norm() / gradient.norm())
        assert error <= 1e-6, f"{name}: relative error {error:.2e}"  # TRL's masks make weights of float32


COMPARED = [name for name, case in CASES.items() if not case.learns]


@pytest.mark.parametrize("name", COMPARED)
def test_gradients_are_the_mean_of_the_ranks_oracles(name: str, results: dict[str, list[Results]]) -> None:
    ranks = results[name]
    assert all(rank["microbatches"] == MICROBATCHES for rank in ranks)
    mean = {key: sum(rank["oracle"][key] for rank in ranks) / RANKS for key in ranks[0]["oracle"]}
    for rank in ranks:
        assert_equal(rank["gradients"], mean)


@pytest.mark.parametrize("name", [name for name in COMPARED if not CASES[name].sharded])
def test_before_they_are_averaged_gradients_are_each_ranks_oracle(name: str, results: dict[str, list[Results]]) -> None:
    for rank in results[name]:
        (found,) = rank["before_last"]
        assert_equal(found, rank["oracle_before_last"])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.learns])
def test_twenty_steps_improve_the_reward(name: str, results: dict[str, list[Results]]) -> None:
    rewards = [entry["reward"] for entry in results[name][0]["log"]]
    assert len(rewards) == 20
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.25, rewards


@pytest.mark.parametrize("name", CASES)
def test_logs_are_means_over_the_ranks(name: str, results: dict[str, list[Results]]) -> None:
    first = results[name][0]["log"][0]
    assert 0 < first["removed_ratio"] < 1 and 0 <= first["clamped"] <= 1 and first["local_kl"] > 0
    assert results[name][0]["wrapped"] == ["FSDPModule" if CASES[name].sharded else "DistributedDataParallel"]
