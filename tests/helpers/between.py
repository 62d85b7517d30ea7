"""Two layers with something in between, and batches of rows for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from trust import X2, Batch, Case, X, double, score


def advantages(batch: int) -> Tensor:
    return torch.linspace(-1, 1.5, batch, dtype=torch.float64)


class Between(nn.Module):
    """Two layers, and a function of the hidden rows in between."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.below, self.function, self.above = nn.Linear(6, 5), function, nn.Linear(5, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.above(torch.tanh(self.function(self.below(rows))))


def mixed(function: Callable[[Tensor], Tensor]) -> Case:
    return Case(double(Between(function)), on(X, X2), "raised")


def on(*inputs: Tensor) -> list[Batch]:
    """A microbatch for each input, whose first axis is the sequence."""
    return [Batch(lambda model, x=x: score(model(x)), advantages(len(x))) for x in inputs]
