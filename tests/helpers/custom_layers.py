"""One custom layer between two others, which has no rule of its own: what the tests of such layers are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from trust import X2, Batch, Case, X, double, score


def around(layer: nn.Module) -> Any:
    """The layer between two others, so that an error in its rows would be an error of theirs."""
    return double(nn.Sequential(nn.Linear(6, 5), layer, nn.Linear(5, 3)))


def plain(model: Any) -> Tensor:
    return score(model(X))


def second(model: Any) -> Tensor:
    return score(model(X2))


def case(layer: nn.Module, between: Callable[[Any], object] = lambda _: None, **fields: Any) -> Case:
    return Case(around(layer), [Batch(plain, between=between), Batch(second, between=between)], **fields)


class Scale(nn.Module):
    """The simplest layer that has no rule of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))
        self.temperature = 1.0
        self.register_buffer("mean", torch.zeros(5))
        self.calls = 0

    def scaled(self, rows: Tensor) -> Tensor:
        return torch.sin(rows * self.weight)

    def forward(self, rows: Tensor) -> Tensor:
        return self.scaled(rows) / self.temperature


def first_seen_in_eval(layer: nn.Module) -> Case:
    model = around(layer).eval()
    return Case(model, [Batch(plain), Batch(second, before=nn.Module.train), Batch(plain)])
