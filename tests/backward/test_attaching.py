"""Attaching leaves no trace: not in results, not in the module, not after an error."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from backward_policies import EXACT, MICROS, Classifier, TokenPolicy, expected, initialise, seeded
from oracle import Micro, assert_gradients, oracle_gradients
from torch import Tensor, nn

from proma_bench import Proma


def snapshot(module: nn.Module) -> list[Any]:
    return [{k: id(v) for k, v in child.__dict__.items()} for child in module.modules()]


def test_attach_and_remove_leaves_autograd_bit_identical() -> None:
    module = initialise(TokenPolicy(), torch.float32)

    def gradients() -> list[Tensor]:
        module.zero_grad()
        MICROS[0].padded(module)[0].sum().backward()
        return [p.grad for p in module.parameters() if p.grad is not None]

    before, state = gradients(), snapshot(module)
    proma = Proma(module)
    MICROS[1].padded(module)
    proma.remove()
    proma.remove()
    assert snapshot(module) == state
    assert not any(p._backward_hooks for p in module.parameters())
    for first, second in zip(before, gradients(), strict=True):
        assert torch.equal(first, second)


def test_forward_is_bit_identical_while_attached() -> None:
    module = initialise(TokenPolicy(), torch.float32)
    before = MICROS[0].padded(module)[0]
    with Proma(module):
        assert torch.equal(MICROS[0].padded(module)[0], before)
        with torch.no_grad():
            assert torch.equal(MICROS[0].padded(module)[0], before)
        with torch.inference_mode():
            assert torch.equal(MICROS[0].padded(module)[0], before)


def test_backward_outside_of_a_microbatch_is_plain() -> None:
    module = initialise(TokenPolicy())
    MICROS[0].padded(module)[0].sum().backward()
    wanted = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    for layout in ("padded", "packed"):
        module.zero_grad()
        with Proma(module):
            getattr(MICROS[0], layout)(module)[0].sum().backward()
        assert_gradients(module, wanted, 1e-12)


def test_a_failed_attach_leaves_no_trace() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Embedding(3, 3, sparse=True))
    state = snapshot(module)
    with pytest.raises(ValueError, match=r"'1' \(Embedding\).*sparse"):
        Proma(module)
    assert snapshot(module) == state and not module[0].weight._backward_hooks


def test_copies_and_pickles_of_an_attached_module_are_ordinary() -> None:
    module = initialise(Classifier(), torch.float32)
    rows = torch.randn(4, 6)
    with Proma(module) as proma:
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            with torch.no_grad():
                other.layers[0].weight.zero_()
                other.layers[0].bias.zero_()
            assert not torch.equal(other(rows), module(rows))
            other(rows).sum().backward()
        assert all(p.grad is None for p in module.parameters())
        proma.backward(module(rows).sum(1), torch.ones(4))
    torch.save(module.state_dict(), io.BytesIO())


def test_a_pass_that_wants_another_gradient_leaves_nothing_behind() -> None:
    module = initialise(Classifier(), torch.float32)
    rows = torch.randn(4, 6, requires_grad=True)
    module(rows).sum().backward()
    wanted = {name: p.grad.clone() for name, p in module.named_parameters()}
    with Proma(module) as proma:
        module.zero_grad()
        torch.autograd.grad(module(rows).sum(), rows)
        module(rows).sum().backward()
        assert_gradients(module, wanted, 1e-6)
        module.zero_grad()
        torch.autograd.grad(module(rows[:2]).sum(), rows)
        proma.backward(module(rows).sum(1), torch.ones(4))
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(parameter.grad, -wanted[name])


def test_gradients_are_complete_when_the_backward_pass_returns() -> None:
    module = initialise(TokenPolicy())
    wanted = expected(module, EXACT)
    with Proma(module, EXACT) as proma:
        for micro in MICROS:
            log_probs, _ = micro.padded(module)
            with proma.microbatch(micro.advantages):
                (-log_probs.sum()).backward()
                if micro is MICROS[-1]:
                    assert_gradients(module, wanted, 1e-9)


def test_an_error_half_way_leaves_nothing_behind() -> None:
    module = initialise(TokenPolicy())
    wanted = expected(module, EXACT)
    with Proma(module, EXACT) as proma:
        handle = module.embedding.weight.register_hook(lambda _: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                proma.backward(MICROS[0].padded(module)[0], MICROS[0].advantages)
        handle.remove()
        module.zero_grad()
        for micro in MICROS:
            proma.backward(micro.padded(module)[0], micro.advantages)
    assert_gradients(module, wanted, 1e-9)


def test_a_layer_may_keep_its_output() -> None:
    class Sigmoid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, generator=seeded(0)))

        def forward(self, rows: Tensor, *, scale: float = 1.0) -> Tensor:
            return torch.sigmoid(rows * self.weight * scale)

    module = Sigmoid().double()
    rows = torch.randn(2, 4, 6, dtype=torch.float64, generator=seeded(0))
    micros = [Micro(lambda m, i, x=x: m(x[i : i + 1]).sum(), torch.ones(4, dtype=torch.float64)) for x in rows]
    wanted = oracle_gradients(module, micros, EXACT)
    with Proma(module, EXACT) as proma:
        for x in rows:
            proma.backward(module(x).sum(1), torch.ones(4, dtype=torch.float64))
        assert_gradients(module, wanted, 1e-9)
        proma.backward(module(rows[0], scale=2.0).sum(1), torch.ones(4, dtype=torch.float64))
