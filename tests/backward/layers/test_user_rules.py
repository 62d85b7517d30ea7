"""What a rule of the user is given, what is recomputed behind the user, and when a rule counts as wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proma_bench import Proma, register_rule
from proma_bench.backward.factors import Dense, SequenceGrads
from proma_bench.backward.layers.generic import generic
from proma_bench.backward.layout import Layout
from proma_bench.backward.registry import _RULES

ADVANTAGES = torch.tensor([1.0, -1.0, 0.5])


class Power(nn.Module):
    """A layer with arguments that are no tensors."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 4, dtype=dtype))

    def forward(self, rows: Tensor, exponent: float = 2.0, name: str | None = "x") -> Tensor:
        return (rows.abs() + 1.0) ** exponent * self.weight


@contextmanager
def ruled(function: Any) -> Iterator[None]:
    register_rule(Power)(function)
    try:
        yield
    finally:
        del _RULES[Power]


def microbatch(layer: nn.Module, rows: Tensor, *arguments: Any, **named: Any) -> Tensor:
    """The first microbatch's gradient, which is the plain one."""
    with Proma(layer) as proma:
        proma.backward(layer(rows, *arguments, **named).float().sum(1), ADVANTAGES)
    gradient = layer.get_parameter("weight").grad
    assert gradient is not None
    return gradient


def wanted(layer: nn.Module, rows: Tensor, *arguments: Any, **named: Any) -> Tensor:
    loss = -(ADVANTAGES * layer(rows, *arguments, **named).float().sum(1)).sum()
    return torch.autograd.grad(loss, layer.get_parameter("weight"))[0]


ROWS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("arguments", "named", "seen"),
    [
        ((), {}, (ROWS,)),
        ((3.0,), {}, (ROWS, 3.0)),
        ((), {"name": None}, (ROWS, 2.0, None)),  # what was left out has its default
        ((), {"exponent": 1.5}, (ROWS, 1.5, "x")),
    ],
)
def test_a_rule_is_given_all_arguments_as_they_were(
    arguments: tuple[Any, ...], named: dict[str, Any], seen: tuple[Any, ...]
) -> None:
    found: list[tuple[Any, ...]] = []

    def rule(module: nn.Module, inputs: tuple[Any, ...], grad: Tensor, layout: Layout) -> dict[str, SequenceGrads]:
        found.append(inputs)
        return generic(module, inputs, grad, layout)

    layer = Power()
    expected = wanted(layer, ROWS, *arguments, **named)
    with ruled(rule):
        torch.testing.assert_close(microbatch(layer, ROWS, *arguments, **named), expected)
    for inputs in found:
        assert inputs[1:] == seen[1:] and torch.equal(inputs[0], ROWS)


def test_hooks_do_not_see_what_is_recomputed() -> None:
    """A hook that collects activations collects each once."""
    layer, seen = Power(), list[str]()
    layer.register_forward_hook(lambda *_: seen.append("forward"))
    layer.register_forward_pre_hook(lambda *_: seen.append("before"))
    layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    with ruled(generic), Proma(layer, check=False) as proma:
        proma.backward(layer(ROWS.clone().requires_grad_()).sum(1), ADVANTAGES)
    assert sorted(seen) == ["backward", "before", "forward"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("factor", [0.8, 1.2, 2.0])
def test_a_rule_that_is_wrong_by_a_factor_is_refused_in_any_type(dtype: torch.dtype, factor: float) -> None:
    def rule(module: nn.Module, inputs: tuple[Any, ...], grad: Tensor, layout: Layout) -> dict[str, SequenceGrads]:
        right = generic(module, inputs, grad, layout)["weight"]
        assert isinstance(right, Dense)
        return {"weight": Dense(factor * right.seq_grads)}

    layer = Power(dtype)
    with ruled(rule), pytest.raises(ValueError, match="do not add up to autograd's gradient"):
        microbatch(layer, ROWS.to(dtype))
    assert layer.weight.grad is None
