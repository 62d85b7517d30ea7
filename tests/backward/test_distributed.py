"""Two processes: each rank projects its own running gradient over its own microbatches, then gradients are averaged.

One pair of processes runs every case; the tests look at what it left.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from causal_lm import Answers, norm_forward, tiny_qwen3
from distributed_cases import CASES, PLAIN, RANKS, REFUSED, Results, answers_of, gradients, refusal
from oracle import Micro, assert_near, intra_gradients, oracle_gradients
from torch import Tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from proma_bench import ProjectionConfig

# ------------------------------------------------------------------------------------------------- the processes


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # transformers' about the name of an argument; FSDP1's about its end
    Qwen3RMSNorm.forward = norm_forward
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    results: Results = {name: gradients(case, rank) for name, case in CASES.items()}
    results["refused"] = {name: refusal(name) for name in REFUSED}
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, args=(folder,), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.fixture(autouse=True, scope="module")
def exact_norms() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qwen3RMSNorm, "forward", norm_forward)
        yield


def micros(answers: Answers, size: int | None) -> list[Micro]:
    """A microbatch as the virtual ones that it consists of."""
    size = size or len(answers.advantages)
    return [
        Micro(lambda model, i, start=start: answers.alone(model, start + i), advantages)
        for start, advantages in zip(range(0, len(answers.tokens), size), answers.advantages.split(size), strict=True)
    ]


@cache
def expected(
    config: ProjectionConfig, tied: bool = True, synchronised: bool = False, size: int | None = None
) -> dict[str, Tensor]:
    """The oracle's gradients of two single processes, averaged at the end or after every microbatch."""
    model = tiny_qwen3(torch.float64, tied=tied)
    by_rank = [[micro for answers in answers_of(rank) for micro in micros(answers, size)] for rank in range(RANKS)]
    if config.method == "intra":  # no microbatch meets another, so it does not matter when they are averaged
        return average([intra_gradients(model, own, config) for own in by_rank])
    if not synchronised:
        return average([oracle_gradients(model, own, config) for own in by_rank])
    running: dict[str, Tensor] | None = None
    for both in zip(*by_rank, strict=True):
        running = average([oracle_gradients(model, [micro], config, running) for micro in both])
    assert running is not None
    return running


def average(gradients: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([own[name] for own in gradients]).mean(0) for name in gradients[0]}


@pytest.mark.parametrize("name", CASES)
def test_equals_single_processes_averaged(name: str, distributed: list[Results]) -> None:
    case = CASES[name]
    wanted = expected(case.config, case.tied, case.synchronised, case.size)
    wanted = wanted | {parameter: expected(PLAIN)[parameter] for parameter in case.unprojected}
    for results in distributed:
        for found in results[name]["steps"]:
            assert_near(found, wanted, case.relative)


def test_what_the_cases_are_to_tell_apart_differs() -> None:
    """Projection of local or of averaged running gradients, in microbatches of one size or another, and none."""
    config = ProjectionConfig()
    results = [expected(config), expected(config, synchronised=True), expected(config, size=2), expected(PLAIN)]
    for one, other in combinations(results, 2):
        assert all((one[name] - other[name]).norm() > 1e-3 * one[name].norm() for name in one)


def test_records_carry_the_names_of_the_module(distributed: list[Results]) -> None:
    ddp, fsdp = (distributed[0][name]["records"] for name in ("ddp", "fsdp"))
    assert [(f"module.{name}", microbatch) for name, microbatch, _ in fsdp] == [record[:2] for record in ddp]
    torch.testing.assert_close([norm for *_, norm in fsdp], [norm for *_, norm in ddp], rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str, distributed: list[Results]) -> None:
    for results in distributed:
        assert re.search(REFUSED[name][1], results["refused"][name]), results["refused"][name]
