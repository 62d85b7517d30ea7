"""A parameter that is used without a layer is an ordinary one: its hooks run, once, on the gradient that it gets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from trust import ADVANTAGES, CONFIG, X2, X, double, score

from proma_bench import Proma


class Scaled(nn.Module):
    """A layer, and a parameter beside it that goes through an operation of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.log_scale = nn.Linear(6, 3), nn.Parameter(torch.zeros(3))

    def forward(self, rows: Tensor) -> Tensor:
        return self.layer(rows) * self.log_scale.exp()


def increments(hooks: int, seen: list[tuple[int, Tensor]]) -> list[Tensor]:
    """What each microbatch adds to the parameter, which has hooks that double what they see."""
    model, found, before = double(Scaled()), [], torch.zeros(3, dtype=torch.float64)
    with Proma(model, CONFIG) as proma:
        for number in range(hooks):

            def double_it(gradient: Tensor, number: int = number) -> Tensor:
                seen.append((number, gradient.clone()))
                return gradient * 2

            model.log_scale.register_hook(double_it)
        for rows in (X, X2, X):
            proma.backward(score(model(rows)), ADVANTAGES)
            found.append(model.log_scale.grad - before)
            before = model.log_scale.grad.clone()
    assert len(model.log_scale._backward_hooks or {}) == hooks
    return found


@pytest.mark.parametrize("hooks", [1, 3])
def test_hooks_see_the_gradient_in_their_order_and_may_change_it(hooks: int) -> None:
    seen: list[tuple[int, Tensor]] = []
    plain, changed = increments(0, seen), increments(hooks, seen)
    assert [number for number, _ in seen] == [*range(hooks)] * 3
    assert torch.allclose(seen[0][1], plain[0]) and torch.allclose(changed[0], plain[0] * 2**hooks)
    for number, gradient in seen[:hooks]:
        assert torch.allclose(gradient, plain[0] * 2**number)
