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

from causal_lm import norm_forward, tiny_qwen3
from oracle import Micro, assert_near, intra_gradients, oracle_gradients
from tiny_trl import INTRA_RANK, LORA, MICROBATCHES, at, kl_gradients, make_trainer, micros, own_tokens, split
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from proma_bench import ProjectionConfig

RANKS = 2
RELATIVE = 1e-6  # TRL's masks make weights of float32
Results = dict[str, Any]


class Case(NamedTuple):
    """sharded: with FSDP2, by transformers as it loads the model; otherwise it is accelerate's DistributedDataParallel.

    accelerate's own FSDP2 plugin is for GPUs only. reduced_always: gradients are averaged after every microbatch, not
    only the last. microbatch: sequences in one, of the four in a backward pass. beta: of a KL penalty.
    """

    sharded: bool = False
    tied: bool = True
    lora: bool = False
    checkpointed: bool = False
    learns: bool = False
    config: ProjectionConfig = ProjectionConfig()
    reduced_always: bool = False
    microbatch: int = 4
    beta: float = 0.0


INTRA = ProjectionConfig("intra", rank=INTRA_RANK)
CASES = {
    "ddp": Case(),
    "ddp, checkpointed": Case(checkpointed=True),
    "ddp, lora": Case(lora=True),
    "ddp, lora, checkpointed": Case(lora=True, checkpointed=True),
    "ddp, reduced always": Case(reduced_always=True),
    "ddp, twenty steps": Case(learns=True),
    "ddp, microbatches of two": Case(microbatch=2),
    "ddp, lora, kl": Case(lora=True, beta=0.3),
    "fsdp": Case(sharded=True),
    "fsdp, microbatches of two": Case(sharded=True, microbatch=2),
    "fsdp, untied": Case(sharded=True, tied=False),
    "fsdp, checkpointed": Case(sharded=True, checkpointed=True),
    "fsdp, lora": Case(sharded=True, lora=True),
    "fsdp, intra, reduced always": Case(sharded=True, config=INTRA, reduced_always=True),  # needs no running gradient
    "fsdp, twenty steps": Case(sharded=True, learns=True),
}
REFUSED = Case(sharded=True, reduced_always=True)


def trainer_of(case: Case, folder: Path) -> Any:
    dtype = torch.float32 if case.learns else torch.float64
    model: Any = tiny_qwen3(dtype, tied=case.tied)
    if case.sharded:
        config = DistributedConfig(fsdp_size=RANKS)
        model = AutoModelForCausalLM.from_pretrained(
            folder / f"tied-{case.tied}", dtype=dtype, distributed_config=config
        )
    settings: dict[str, Any] = {"activation_checkpointing": case.checkpointed, "ddp_backend": "gloo"}
    settings |= {"projection": case.config.method, "projection_rank": case.config.rank}
    settings |= {"projection_microbatch": case.microbatch, "beta": case.beta, "use_bias_correction_kl": False}
    settings["accelerator_config"] = {"gradient_accumulation_kwargs": {"sync_each_batch": case.reduced_always}}
    if case.learns:
        settings |= {"max_steps": 20, "learning_rate": 0.01, "lr_scheduler_type": "constant"}
    return make_trainer(folder / "out", model=model, lora=case.lora, **settings)


def run(case: Case, folder: Path) -> Results:
    trainer = trainer_of(case, folder)
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
    weight = RANKS / int(tokens)
    passes = micros(trainer.seen, lambda step, m, i: weight, trainer.temperature)
    own = [part for one in passes for part in split(one, case.microbatch)]
    found = oracles(model, own, case)
    oracle, oracle_before_last = found[-1], found[-1 - len(own) // len(passes)]
    if case.beta:
        penalty = kl_gradients(model, trainer.seen, case.beta * weight)
        oracle = {name: gradient + penalty[name] for name, gradient in oracle.items()}
    return {
        "gradients": trainer.gradients[0],
        "before_last": trainer.before_last,
        "oracle": oracle,
        "oracle_before_last": oracle_before_last,
        "passes": len(passes),
    }


def oracles(model: nn.Module, own: list[Micro], case: Case) -> list[dict[str, Tensor]]:
    """What this rank's gradients must be after each microbatch."""
    if case.config.method == "intra":  # no microbatch meets another, so it does not matter when they are averaged
        return [intra_gradients(model, own[: number + 1], case.config) for number in range(len(own))]
    found = []
    running: dict[str, Tensor] | None = None
    for micro in own:
        running = oracle_gradients(model, [micro], case.config, running)
        if case.reduced_always:
            for gradient in running.values():
                dist.all_reduce(gradient)
                gradient /= RANKS
        found.append(running)
    return found


def refusal(folder: Path) -> Results:
    try:
        trainer_of(REFUSED, folder)
    except ValueError as error:
        return {"message": str(error)}
    return {"message": "nothing was refused"}


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what the single process is strict about
    Qwen3RMSNorm.forward = norm_forward
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="1")  # asked for, not used: a free port may be taken
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=RANKS)
    found = {name: run(case, folder) for name, case in CASES.items()}
    torch.save(found | {"refused": refusal(folder)}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Results]]:
    """By case, and for "refused", what each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    for tied in (True, False):
        tiny_qwen3(torch.float64, tied=tied).save_pretrained(folder / f"tied-{tied}")
    mp.spawn(worker, args=(folder,), nprocs=RANKS)
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    return {name: [found[name] for found in ranks] for name in ranks[0]}


COMPARED = [name for name, case in CASES.items() if not case.learns]


@pytest.mark.parametrize("name", COMPARED)
def test_gradients_are_the_mean_of_the_ranks_oracles(name: str, results: dict[str, list[Results]]) -> None:
    ranks = results[name]
    assert all(rank["passes"] == MICROBATCHES for rank in ranks)
    mean = {key: sum(rank["oracle"][key] for rank in ranks) / RANKS for key in ranks[0]["oracle"]}
    for rank in ranks:
        assert_near(rank["gradients"], mean, RELATIVE)


@pytest.mark.parametrize("name", [name for name in COMPARED if not CASES[name].sharded])
def test_before_the_last_microbatch_they_are_each_ranks_oracle(name: str, results: dict[str, list[Results]]) -> None:
    for rank in results[name]:
        (found,) = rank["before_last"]
        assert_near(found, rank["oracle_before_last"], RELATIVE)


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


def test_gradients_reduced_before_they_can_be_projected_are_refused(results: dict[str, list[Results]]) -> None:
    for rank in results["refused"]:
        assert "sync_each_batch=True is not possible with PROMA under FSDP2: " in rank["message"]
