"""Layers without a rule of their own that do what a second computation, or one of a sequence alone, does not repeat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from custom_layers import Scale, around, case, first_seen_in_eval
from torch import Tensor, nn
from trust import X2, Batch, Case, X, assert_outcome, double, in_all_ways, score


class Dropping(Scale):
    def forward(self, rows: Tensor) -> Tensor:
        return F.dropout(self.scaled(rows), 0.5, self.training)


def dropout_inside() -> Case:
    return case(Dropping())


def dropout_first_seen_in_eval() -> Case:
    return first_seen_in_eval(Dropping())


class Noisy(Scale):
    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.weight * torch.randn_like(rows)


def noise_inside() -> Case:
    return case(Noisy())


class Asking(Scale):
    """A branch that the numbers decide; `torch.func` cannot follow it."""

    def forward(self, rows: Tensor) -> Tensor:
        return self.scaled(rows) * (2.0 if rows.sum().item() > 0 else 3.0)


def item_inside() -> Case:
    return case(Asking())


class Square(torch.autograd.Function):
    """A function without a rule for vmap, as most are."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return rows.square()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grads[0]


class StraightThrough(torch.autograd.Function):
    """A gradient that is not that of the forward pass."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return rows.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class WithFunction(Scale):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, rows: Tensor) -> Tensor:
        return self.scaled(self.function.apply(rows * self.weight))


def custom_function() -> Case:
    return case(WithFunction(Square))


def straight_through() -> Case:
    return case(WithFunction(StraightThrough))


class InPlace(Scale):
    """Changes what it was given, after the layer below has saved nothing of it."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.mul_(2).mul(self.weight)


def input_changed_in_place() -> Case:
    return case(InPlace())


class Detached(Scale):
    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.weight.detach() * self.weight


def weight_partly_detached() -> Case:
    return case(Detached())


class Hooked(Scale):
    """A tensor hook that changes the gradient on its way."""

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.scaled(rows)
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
        return hidden * self.weight


def gradient_clamped_by_a_hook() -> Case:
    return case(Hooked())


class WithPositions(nn.Module):
    """Takes positions that all sequences share, [T, d], beside rows [B, T, d]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, rows: Tensor, positions: Tensor) -> Tensor:
        return torch.sin(rows * self.weight + positions * self.weight.square())


class Positioned(nn.Module):
    def __init__(self, keyword: bool) -> None:
        super().__init__()
        self.layer, self.head, self.keyword = WithPositions(), nn.Linear(6, 3), keyword

    def forward(self, rows: Tensor) -> Tensor:
        where = X[: rows.shape[1]]
        return self.head(self.layer(rows, positions=where) if self.keyword else self.layer(rows, where))


def positions_shared(sizes: tuple[int, ...], keyword: bool = False) -> Case:
    generator = torch.Generator().manual_seed(3)
    inputs = [torch.randn(size, 3, 6, generator=generator, dtype=torch.float64) for size in sizes]
    advantages = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    return Case(
        double(Positioned(keyword)),
        [Batch(lambda model, x=x: score(model(x)), advantages[: len(x)]) for x in inputs],
    )


def positions_as_argument() -> Case:
    return positions_shared((4, 4))


def positions_as_argument_in_a_last_short_microbatch() -> Case:
    return positions_shared((4, 3))


def positions_as_keyword_in_a_last_short_microbatch() -> Case:
    return positions_shared((4, 3), keyword=True)


class Cached(Scale):
    """Keeps a part of its result from call to call, within the graph."""

    def forward(self, rows: Tensor) -> Tensor:
        kept = getattr(self, "kept", torch.zeros(1, dtype=rows.dtype))
        self.kept = self.scaled(rows)
        return self.kept + kept


def result_kept_for_the_next_call() -> Case:
    def use(model: Any) -> Tensor:
        model[1].kept = torch.zeros(1, dtype=torch.float64)
        return score(model(X)) + score(model(X2))

    return Case(around(Cached()), use)


CASES = [
    dropout_inside, dropout_first_seen_in_eval, noise_inside, item_inside, custom_function, straight_through,
    input_changed_in_place, weight_partly_detached, gradient_clamped_by_a_hook, positions_as_argument,
    positions_as_argument_in_a_last_short_microbatch, positions_as_keyword_in_a_last_short_microbatch,
    result_kept_for_the_next_call,
]  # fmt: skip


@in_all_ways(CASES)
def test_custom_layers(case: Callable[[], Case], way: str, uncovered: bool) -> None:
    assert_outcome(case(), way, uncovered)
