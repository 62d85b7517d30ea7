"""Networks as people write them: right or refused, and right where autograd serves what no rule can."""

from __future__ import annotations

import architectures
import architectures_sequences
import pytest
import torch
from torch import Tensor
from trust import WAYS, Batch, Case, assert_outcome, double, score

ARCHITECTURES = architectures.ARCHITECTURES | architectures_sequences.ARCHITECTURES


def rows(batch: int, time: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, time, 6, generator=generator, dtype=torch.float64)


def batches(*sizes: int) -> list[Batch]:
    """Microbatches of these sizes; the length of the sequences is that of the last."""
    found = []
    for seed, size in enumerate(sizes):
        inputs = rows(size, sizes[-1], seed)
        advantages = torch.linspace(-1, 1.5, size, dtype=torch.float64)
        found.append(Batch(lambda model, inputs=inputs: score(model(inputs)), advantages))
    return found


@pytest.mark.parametrize("uncovered", [False, True], ids=["default", "uncovered"])
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("way", WAYS)
def test_architecture(way: str, name: str, uncovered: bool) -> None:
    """The second microbatch is square: as many sequences as steps of time, which must mislead nobody."""
    model = double(ARCHITECTURES[name]())
    assert_outcome(Case(model, batches(4, 3)), way, uncovered)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_in_eval(name: str) -> None:
    model = double(ARCHITECTURES[name]()).eval()
    assert_outcome(Case(model, batches(2, 5, 3)), "backward")
