"""The examples of training loops, in one process and in two: weights are the oracle's, and the policy learns.

One process, and then a pair of them, run both examples; the tests look at what they left.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import os
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from oracle import Micro, assert_near, oracle_gradients
from rule_oracles import isopo, literal_gradients
from torch import Tensor, nn

from proma_bench import ProjectionConfig

pytest.importorskip("accelerate", reason="needs the extra [trl]")
pytest.importorskip("lightning_fabric", reason="`tox -e trl` installs Lightning Fabric")

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = ["plain_accelerate", "fabric"]
RULES = ["iterative", "isopo"]
RANKS = [1, 2]
STEPS = 2


def example(name: str) -> ModuleType:
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


# ------------------------------------------------------------------------------------------------- what was computed


def worker(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    os.environ.update(LT_CLI_USED="1", LT_ACCELERATOR="cpu", LT_DEVICES=str(ranks))  # what `fabric run` sets
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if ranks > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LT_STRATEGY="ddp")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="1")  # asked for, not used: a free port may be taken
        dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=ranks)
    found: dict[str, Any] = {f"{name}, learns": printed(name) for name in EXAMPLES if ranks == 1}
    torch.set_default_dtype(torch.float64)
    for name in EXAMPLES:
        for rule in RULES:
            found[f"{name}, {rule}"] = dict(example(name).main(STEPS, rule).state_dict())
    torch.save(found, folder / f"{rank} of {ranks}.pt")
    if ranks > 1:
        dist.destroy_process_group()


def printed(name: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        example(name).main()
    return output.getvalue()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """By the number of processes, what each found."""
    folder = tmp_path_factory.mktemp("loops")
    for ranks in RANKS:
        mp.spawn(worker, args=(ranks, folder), nprocs=ranks)
    return {
        ranks: [torch.load(folder / f"{rank} of {ranks}.pt", weights_only=True) for rank in range(ranks)]
        for ranks in RANKS
    }


# ------------------------------------------------------------------------------------------------ what it should be


def micros(policy: nn.Module, rank: int, step: int) -> list[Micro]:
    """A step's microbatches on this rank: what the policy is going to answer."""
    answered, loop = example("guessing").answered, example("plain_accelerate")
    weight = 1 / (loop.SEQUENCES * loop.MICROBATCHES)

    def micro(state: Tensor) -> Micro:
        def log_prob(module: nn.Module, i: int) -> Tensor:
            torch.set_rng_state(state)
            result: Tensor = weight * answered(module, loop.SEQUENCES, torch.device("cpu"))[0][i]
            return result

        torch.set_rng_state(state)
        _, rewards = answered(policy, loop.SEQUENCES, torch.device("cpu"))
        return Micro(log_prob, rewards - rewards.mean())

    found = []
    torch.manual_seed(1 + rank)
    for number in range((step + 1) * loop.MICROBATCHES):
        state = torch.get_rng_state()
        one = micro(state)  # the random numbers of earlier steps are drawn as well
        after = torch.get_rng_state()
        if number >= step * loop.MICROBATCHES:
            found.append(one)
        torch.set_rng_state(after)
    return found


def expected(ranks: int, rule: str) -> dict[str, Tensor]:
    """The weights after the steps, by the mean of the ranks' literal gradients."""
    policy = example("guessing").make_policy().double()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for step in range(STEPS):
        alone = []
        for rank in range(ranks):
            steps = micros(copy.deepcopy(policy), rank, step)
            if rule == "isopo":
                alone.append(literal_gradients(policy, steps, isopo(1.0)))
            else:
                alone.append(oracle_gradients(policy, steps, ProjectionConfig()))
        for name, parameter in policy.named_parameters():
            parameter.grad = torch.stack([gradients[name] for gradients in alone]).mean(0)
        optimizer.step()
    return dict(policy.state_dict())


@pytest.fixture
def float64() -> Any:
    """As in the workers, in which weights and what is drawn are in this type; the random state stays as it was."""
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("rule", RULES)
def test_the_weights_are_the_oracles(
    rule: str, ranks: int, results: dict[int, list[dict[str, Any]]], float64: None
) -> None:
    wanted = expected(ranks, rule)
    for found in results[ranks]:
        for name in EXAMPLES:
            assert_near(found[f"{name}, {rule}"], wanted, 1e-9)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_policy_learns_and_something_is_removed(name: str, results: dict[int, list[dict[str, Any]]]) -> None:
    text = results[1][0][f"{name}, learns"]
    lines = re.findall(r"^step (\d+): reward ([\d.]+), ([\d.]+)% of", text, flags=re.MULTILINE)
    rewards, removed = zip(*((float(reward), float(share)) for _, reward, share in lines), strict=True)
    assert [int(step) for step, *_ in lines] == [20, 40, 60]
    assert rewards[0] < rewards[-1] and rewards[-1] > 0.9  # by chance it would be 0.25
    assert all(0 < share < 100 for share in removed)
