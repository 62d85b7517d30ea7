"""On a pretend accelerator: rows that are not along the first axis, and networks as people write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import architectures
import architectures_sequences
import pretend_accelerator
import pytest
import torch
from pretend_accelerator import noted
from torch import Tensor, nn
from trust import double

from proma_bench import Proma

pytestmark = pytest.mark.accelerator

CPU = torch.device("cpu")


class TimeFirst(nn.Module):
    """Activations [T, B, d]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layer(x.transpose(0, 1)).tanh())).squeeze(-1).sum(0)


class Flat(nn.Module):
    """Activations [N, d] of rows that belong to sequences by their ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(300, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.embedding(x).tanh()).squeeze(-1)


class Direct(nn.Module):
    """A parameter without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(5, 7), nn.Parameter(torch.linspace(0.5, 1.5, 7))

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x).tanh() * self.scale.exp()).sum((1, 2))


IDS = torch.tensor([0, 0, 1, 1, 1, 2, 4, 4, 4, 4, 5, 5])
"""Of sequences of unequal length, one of which is empty."""


def three_microbatches(
    make: Callable[[], nn.Module], device: torch.device, vectors_on: str
) -> tuple[Tensor, list[Any]]:
    """The gradients after three microbatches of one structure, and the waits in the last one's backward pass."""
    torch.manual_seed(0)
    module = make()
    generator = torch.Generator().manual_seed(1)
    module = module.to(device)
    with Proma(module, record=True) as proma:
        for _ in range(3):
            advantages = torch.randn(6, generator=generator)
            if isinstance(module, Flat):
                ids = IDS.to(device) if vectors_on == "device" else IDS
                rows = module(torch.randint(300, IDS.shape, generator=generator).to(device))
                log_probs = rows.new_zeros(6).index_add(0, IDS.to(device), rows)
            else:
                ids, log_probs = None, module(torch.randn(6, 4, 5, generator=generator).to(device))
                advantages = advantages if vectors_on == "cpu" else advantages.to(device)
            with noted() as waits:
                proma.backward(log_probs, advantages, ids)
    return torch.cat([parameter.grad.cpu().flatten() for parameter in module.parameters()]), waits


@pytest.mark.parametrize("vectors_on", ["cpu", "device"])
@pytest.mark.parametrize("make", [TimeFirst, Flat, Direct], ids=["time first", "flat", "direct"])
def test_rows_of_other_layouts(make: Callable[[], nn.Module], vectors_on: str) -> None:
    """A parameter that is used directly waits once: whether its parts add up decides if anything changes."""
    found, waits = three_microbatches(make, pretend_accelerator.device(), vectors_on)
    wanted, _ = three_microbatches(make, CPU, vectors_on)
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()
    assert len([wait for wait in waits if wait.in_backward]) == (1 if make is Direct else 0), waits


ARCHITECTURES = architectures.ARCHITECTURES | architectures_sequences.ARCHITECTURES
FUSED, OWN_TENSORS = "the CPU lacks the fused kernel that a device has", "it makes a tensor on the CPU by itself"
NOT_THERE = {
    **dict.fromkeys(("gru", "lstm", "lstm, time first", "gru, two directions", "gru cell", "lstm cell"), FUSED),
    **dict.fromkeys(("own attention", "own attention, time first", "tokens, positions", "bag, offsets"), OWN_TENSORS),
    "packed gru": OWN_TENSORS,
    "tokens, tied": "moving it makes two parameters of the tied one",
}
"""Networks of `architectures` that cannot be on the pretend device."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=NOT_THERE[name])) if name in NOT_THERE else name
        for name in ARCHITECTURES
    ],
)
def test_networks_as_people_write_them(name: str) -> None:
    """Where rows move with the data each microbatch is verified, so that it waits; but nothing is on another device."""
    found = {}
    for device in (pretend_accelerator.device(), CPU):
        module = double(ARCHITECTURES[name]()).to(device)
        with Proma(module, uncovered="autograd") as proma:
            for seed in range(2):
                rows = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
                torch.manual_seed(seed)
                output = module(rows.to(device)).flatten(1)
                weights = torch.linspace(0.5, 1.5, output.shape[1], dtype=output.dtype, device=device)
                proma.backward((output.sin() * weights).sum(1), torch.linspace(-1, 1.5, 4).double().to(device))
        used = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        found[device] = torch.cat([gradient.cpu().flatten() for gradient in used])
    theirs, ours = found.values()
    assert (theirs - ours).norm() <= 1e-10 * ours.norm()
