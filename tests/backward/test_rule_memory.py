"""A rule that keeps something of each tensor across optimizer steps."""

from __future__ import annotations

import pytest
import torch
from backward_policies import MICROS, TokenPolicy, initialise
from oracle import assert_gradients
from rule_oracles import eigenvalues, isopo, pieces_of
from torch import Tensor

from proma_bench import Proma
from proma_bench.projection.rules.isopo import AveragedIsopo


@pytest.mark.parametrize("size", [None, 2])
def test_averaged_isopo_remembers_the_mean_eigenvalues_of_earlier_steps(size: int | None) -> None:
    """Of each tensor, over three optimizer steps; a step's own microbatches count from the next one on."""
    module, pieces = initialise(TokenPolicy()), pieces_of(size or 100)
    rule = AveragedIsopo(regularisation=0.5, decay=0.8)
    averages: dict[str, float] = {}
    with Proma(module, rule) as proma:
        for step in range(3):
            wanted = {}
            for name, parameter in module.named_parameters():
                running, seen = torch.zeros(parameter.numel(), dtype=torch.float64), []
                for piece in pieces:
                    count = len(piece.advantages)
                    gradients = [torch.autograd.grad(-piece.log_prob(module, i), parameter)[0] for i in range(count)]
                    seq_grads = torch.stack([gradient.flatten() for gradient in gradients])
                    running = isopo(0.5, averages.get(name))(running, seq_grads, piece.advantages)
                    seen.append(float(eigenvalues(seq_grads)[0].mean()))
                wanted[name] = running.reshape(parameter.shape)
                mean = sum(seen) / len(seen)
                averages[name] = 0.8 * averages[name] + 0.2 * mean if step else mean
            module.zero_grad(set_to_none=step != 1)  # either way, a new step begins
            for micro in MICROS:
                proma.backward(micro.padded(module)[0], micro.advantages, microbatch_size=size)
            assert_gradients(module, wanted, 1e-9)
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.add_(0.1)


def test_a_rules_state_goes_on_in_another_proma() -> None:
    module, micro = initialise(TokenPolicy()), MICROS[0]

    def step(proma: Proma) -> dict[str, Tensor]:
        module.zero_grad()
        proma.backward(micro.padded(module)[0], micro.advantages)
        return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}

    with Proma(module, AveragedIsopo()) as proma:
        step(proma)
        for parameter in module.parameters():
            parameter.data.mul_(1.5)
        state = proma.state_dict()
        assert set(state) == {name for name, _ in module.named_parameters()}
        wanted = step(proma)
    with Proma(module, AveragedIsopo()) as proma:
        proma.load_state_dict(state)
        found = step(proma)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    with Proma(module, AveragedIsopo()) as proma:
        assert any(not torch.equal(step(proma)[name], wanted[name]) for name in wanted)
    with Proma(module) as proma:
        step(proma)
        assert proma.state_dict() == {}


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("elsewhere", torch.zeros(3).double(), "names 'elsewhere', which is no parameter"),
        ("mix.weight", torch.zeros(2).double(), "must be 3 finite numbers in torch.float64"),
        ("mix.weight", torch.zeros(3), "must be 3 finite numbers"),
        ("mix.weight", torch.full((3,), float("nan")).double(), "must be 3 finite numbers"),
    ],
)
def test_state_that_does_not_fit_is_refused(name: str, row: Tensor, message: str) -> None:
    with Proma(initialise(TokenPolicy()), AveragedIsopo()) as proma:
        with pytest.raises(ValueError, match=message):
            proma.load_state_dict({"mix.bias": torch.ones(3).double(), name: row})
        assert proma.state_dict() == {}
