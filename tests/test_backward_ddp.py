"""Two processes: each rank projects its own running gradient, then the gradients are averaged."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from proma_bench import ProjectionConfig, Proma

RANKS, STEPS, MICROBATCHES = 2, 2, 3


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(7, 10), nn.Linear(10, 10)
        self.head = nn.Linear(10, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        return self.head(self.body(self.body(hidden).tanh()))


def policy() -> Policy:
    module, generator = Policy().double(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return module


def microbatch(rank: int, step: int, number: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 * rank + 10 * step + number)
    tokens, actions = torch.randint(7, (2, 4, 5), generator=generator)
    return tokens, actions, torch.randn(4, generator=generator, dtype=torch.float64)


def train(module: nn.Module, rank: int, step: int, config: ProjectionConfig, proma: Proma) -> None:
    for number in range(MICROBATCHES):
        tokens, actions, advantages = microbatch(rank, step, number)
        last = number == MICROBATCHES - 1
        synchronised = last or not isinstance(module, DistributedDataParallel)
        with nullcontext() if synchronised else module.no_sync():
            log_probs = module(tokens).log_softmax(-1).gather(-1, actions.unsqueeze(-1)).sum((1, 2))
            proma.backward(log_probs, advantages)


def worker(rank: int, folder: Path, config: ProjectionConfig, view: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=RANKS)
    module = policy()
    parallel = DistributedDataParallel(module, gradient_as_bucket_view=view)
    proma = Proma(parallel, config)
    gradients = []
    for step in range(STEPS):
        train(parallel, rank, step, config, proma)
        gradients.append([p.grad.clone() for p in module.parameters()])
        module.zero_grad()
    torch.save(gradients, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(("config", "view"), [(ProjectionConfig(), False), (ProjectionConfig("exact"), True)])
def test_two_ranks_equal_two_single_runs_averaged(config: ProjectionConfig, view: bool, tmp_path: Path) -> None:
    mp.spawn(worker, args=(tmp_path, config, view), nprocs=RANKS)
    distributed = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    for step in range(STEPS):
        single = []
        for rank in range(RANKS):
            module = policy()
            with Proma(module, config) as proma:
                train(module, rank, step, config, proma)
            single.append([p.grad for p in module.parameters()])
        for number, alone in enumerate(zip(*single, strict=True)):
            average = torch.stack(alone).mean(0)
            for rank in range(RANKS):
                torch.testing.assert_close(distributed[rank][step][number], average, rtol=1e-9, atol=1e-12)
