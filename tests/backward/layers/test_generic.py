"""The rule for modules whose rows are independent, rules of users, and how a wrong one is noticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from backward_policies import EXACT, ITERATIVE, initialise, seeded
from layer_rules import LAYOUTS, assert_rule_equals_autograd
from oracle import Micro, assert_gradients, oracle_gradients
from torch import Tensor, nn

from proma_bench import Proma, register_rule
from proma_bench.backward.factors import SequenceGrads
from proma_bench.backward.layers.generic import generic


class Gain(nn.Module):
    """A user's layer with a scalar and a vector parameter and two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.randn(6))

    def forward(self, rows: Tensor, temperature: Tensor, power: float = 1.0) -> Tensor:
        return (self.scale * rows + self.shift).tanh() / temperature**power


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.GroupNorm(2, 6)
        self.gain, self.out = Gain(), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.norm(self.conv(images)), inplace=True).mean((-1, -2))
        return self.out(self.gain(hidden, power=2.0, temperature=torch.full_like(hidden, 1.5)))


def test_generic_rule_equals_the_oracle() -> None:
    module = initialise(Image())
    images = torch.randn(3, 5, 1, 6, 6, dtype=torch.float64, generator=seeded(0))
    advantages = torch.randn(3, 5, dtype=torch.float64, generator=seeded(1))
    micros = [
        Micro(lambda m, i, x=x: m(x[i : i + 1]).log_softmax(-1)[0, i % 4], a)
        for x, a in zip(images, advantages, strict=True)
    ]
    wanted = oracle_gradients(module, micros, EXACT)
    with Proma(module, EXACT) as proma:
        for batch, weights in zip(images, advantages, strict=True):
            proma.backward(module(batch).log_softmax(-1)[range(5), torch.arange(5) % 4], weights)
    assert_gradients(module, wanted, 1e-9)


class Power(nn.Linear):
    """Its second argument has no rows."""

    def forward(self, input: Tensor, power: int = 2) -> Tensor:
        return super().forward(input).pow(power)


@pytest.mark.parametrize("arguments", [(), (2,)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_autograd(layout: str, arguments: tuple[int, ...]) -> None:
    def rule(module: nn.Module, inputs: tuple[Any, ...], *others: Any) -> dict[str, SequenceGrads]:
        return generic(module, inputs + arguments, *others)

    assert_rule_equals_autograd(rule, Power(5, 3).double(), torch.randn, (5,), layout)


def test_a_registered_module_is_one_layer() -> None:
    class Actor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_std, self.body = nn.Parameter(torch.zeros(2)), nn.Linear(3, 2)

        def forward(self, rows: Tensor) -> Tensor:
            return self.body(rows) * self.log_std.exp()

    module = initialise(Actor())
    register_rule(Actor)(generic)
    rows = torch.randn(2, 4, 3, dtype=torch.float64, generator=seeded(0))
    micros = [Micro(lambda m, i, x=x: m(x[i : i + 1]).sum(), torch.ones(4, dtype=torch.float64)) for x in rows]
    wanted = oracle_gradients(module, micros, ITERATIVE)
    with Proma(module) as proma:
        for x in rows:
            proma.backward(module(x).sum(1), torch.ones(4, dtype=torch.float64))
    assert_gradients(module, wanted, 1e-9)


def test_a_scalar_parameter_may_be_used_twice() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.7))

        def forward(self, rows: Tensor) -> Tensor:
            return (rows * self.scale).tanh()

    register_rule(Scale)(generic)
    module, rows = initialise(Scale()), torch.randn(3, 4, 6, dtype=torch.float64, generator=seeded(0))
    ones = torch.ones(4, dtype=torch.float64)
    micros = [Micro(lambda m, i, x=x: m(m(x[i : i + 1])).sum(), ones) for x in rows]
    wanted = oracle_gradients(module, micros, EXACT)
    with Proma(module, EXACT) as proma:
        for x in rows:
            proma.backward(module(module(x)).sum(1), ones)
    assert_gradients(module, wanted, 1e-9)


class Mixing(nn.Module):
    """Rows that see each other: no rule can tell their gradients apart."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, rows: Tensor) -> Tensor:
        return (rows - rows.mean(0)) * self.weight


register_rule(Mixing)(generic)  # which it should not be


def test_rows_that_are_not_independent_are_noticed() -> None:
    module = nn.Sequential(nn.Linear(3, 3), Mixing()).double()
    with Proma(module) as proma, pytest.raises(ValueError, match=r"'1' \(Mixing\): .*row by row"):
        proma.backward(module(torch.randn(4, 3).double()).pow(2).sum(1), torch.ones(4).double())


def test_a_wrong_rule_is_noticed() -> None:
    class Mine(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)

    register_rule(Mine)(lambda m, inputs, grad, layout: generic(m, inputs, grad * 2, layout))
    module = nn.Sequential(Mine(3, 2))
    with Proma(module) as proma, pytest.raises(ValueError, match=r"'0' .*its rule is wrong"):
        proma.backward(module(torch.randn(4, 3)).sum(1), torch.ones(4))
    register_rule(Mine)(lambda m, inputs, grad, layout: {})
    with Proma(module) as proma, pytest.raises(ValueError, match="its rule gives gradients for"):
        proma.backward(module(torch.randn(4, 3)).sum(1), torch.ones(4))


def test_a_wrong_rule_has_no_part_where_autograd_takes_its_place() -> None:
    class Mine(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)

    register_rule(Mine)(lambda m, inputs, grad, layout: generic(m, inputs, grad * 2, layout))
    module, rows = initialise(nn.Sequential(Mine(3, 2), nn.Tanh())), torch.randn(2, 4, 3, generator=seeded(0)).double()
    ones = torch.ones(4, dtype=torch.float64)
    micros = [Micro(lambda m, i, x=x: m(x[i : i + 1]).sum(), ones) for x in rows]
    wanted = oracle_gradients(module, micros, EXACT)
    with Proma(module, EXACT, uncovered="autograd") as proma:
        for x in rows:
            proma.backward(module(x).sum(1), ones)
    assert_gradients(module, wanted, 1e-9)


def test_a_gradient_of_zero_proves_nothing_about_a_rule() -> None:
    class Mine(nn.Linear):
        pass

    register_rule(Mine)(lambda m, inputs, grad, layout: generic(m, inputs, grad * 2, layout))
    module = nn.Sequential(Mine(3, 3), nn.Linear(3, 1, bias=False)).double()
    nn.init.zeros_(module[1].weight)
    rows, ones = torch.randn(4, 3, generator=seeded(0)).double(), torch.ones(4).double()
    with Proma(module) as proma:
        proma.backward(module(rows).squeeze(1), ones)
        nn.init.ones_(module[1].weight)
        with pytest.raises(ValueError, match="its rule is wrong"):
            proma.backward(module(rows).squeeze(1).square(), ones)


@pytest.mark.parametrize("trusted", [False, True])
def test_a_rule_that_runs_out_of_memory_is_not_called_wrong(trusted: bool) -> None:
    """Trainers catch this error and try smaller microbatches."""

    class Mine(nn.Linear):
        pass

    @register_rule(Mine, trusted=trusted)
    def rule(*_: object) -> dict[str, SequenceGrads]:
        raise torch.OutOfMemoryError("as a GPU's allocator says it")

    module = nn.Sequential(Mine(3, 2))
    with Proma(module) as proma, pytest.raises(torch.OutOfMemoryError):
        proma.backward(module(torch.randn(4, 3)).sum(1), torch.ones(4))
