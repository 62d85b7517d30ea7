"""The intra method in a backward pass, against factors taken by hooks and full singular value decompositions."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from causal_lm import MICROS, norm_forward, run, tiny_qwen3
from oracle import Micro, assert_gradients, intra_gradients
from torch import Tensor, nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from proma_bench import ProjectionConfig, Proma

RANK = 12  # with the spare directions as many as a microbatch has rows, so that the subspaces are exact
CONFIG = ProjectionConfig("intra", rank=RANK)


@pytest.fixture(autouse=True)
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Qwen3RMSNorm, "forward", norm_forward)
    yield


def relative_change(model: nn.Module, plain: dict[str, Tensor]) -> dict[str, float]:
    return {name: float((p.grad - plain[name]).norm() / plain[name].norm()) for name, p in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_transformer_equals_the_oracle(layout: str, tied: bool) -> None:
    model = tiny_qwen3(torch.float64, tied=tied)
    wanted = intra_gradients(model, MICROS, CONFIG)
    run(model, CONFIG, layout)
    assert_gradients(model, wanted, 1e-8)
    change = relative_change(model, intra_gradients(model, MICROS, ProjectionConfig("intra", rank=0)))
    for name, size in change.items():  # the tied weight's part from the head is factored
        is_linear = "proj" in name or name == "lm_head.weight" or (tied and "embed" in name)
        assert (size > 0.01) == is_linear, f"{name} changed by {size:.1e}"


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_rounding_of_the_weights_does_not_decide_what_is_removed(layout: str) -> None:
    """Weights that differ by 1e-15 give gradients that differ by little more."""
    model = tiny_qwen3(torch.float64)
    run(model, CONFIG, layout)
    wanted = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    for seed in range(4):
        perturbed, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
        perturbed.zero_grad()
        with torch.no_grad():
            for parameter in perturbed.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.mul_(1 + 1e-15 * noise)
        run(perturbed, CONFIG, layout)
        assert_gradients(perturbed, wanted, 1e-8)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(9, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(x).tanh()).tanh())


def problem(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    module = Twice().double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    x = torch.randn(8, 9, generator=generator, dtype=torch.float64)
    return module, x, torch.randn(8, generator=generator, dtype=torch.float64)


def log_probs(module: nn.Module, x: Tensor) -> Tensor:
    return module(x).log_softmax(-1)[:, 0]


@pytest.mark.parametrize("shrinkage", [1.0, 0.3])
@pytest.mark.parametrize("by_ids", [False, True])
def test_virtual_microbatches_are_factored_each_for_itself(by_ids: bool, shrinkage: float) -> None:
    """And a module called twice has one set of rows."""
    module, x, advantages = problem()
    config = ProjectionConfig("intra", rank=2, shrinkage=shrinkage)
    micros = [
        Micro(lambda module, i, rows=rows: log_probs(module, rows[i : i + 1]).sum(), part)
        for rows, part in zip(x.split(3), advantages.split(3), strict=True)
    ]
    wanted = intra_gradients(module, micros, config)
    with Proma(module, config) as proma:
        proma.backward(log_probs(module, x), advantages, torch.arange(8) if by_ids else None, microbatch_size=3)
    assert_gradients(module, wanted, 1e-8)


def test_what_is_there_already_is_left_alone() -> None:
    module, x, advantages = problem()
    alone = []
    with Proma(module, ProjectionConfig("intra", rank=1)) as proma:
        for half in (slice(0, 4), slice(4, 8)):
            proma.backward(log_probs(module, x[half]), advantages[half])
            alone.append([p.grad for p in module.parameters()])
            module.zero_grad()
        for half in (slice(0, 4), slice(4, 8)):
            proma.backward(log_probs(module, x[half]), advantages[half])
    for parameter, *parts in zip(module.parameters(), *alone, strict=True):
        torch.testing.assert_close(parameter.grad, sum(parts))


def gradients(config: ProjectionConfig, **options: Any) -> list[Tensor]:
    module, x, advantages = problem()
    with Proma(module, config, **options) as proma:
        proma.backward(log_probs(module, x), advantages)
    return [p.grad for p in module.parameters()]


def test_unprojected_weights_and_rank_zero_accumulate_plainly() -> None:
    plain, factored = (gradients(ProjectionConfig("intra", rank=rank)) for rank in (0, 2))
    for one, other in zip(plain, gradients(ProjectionConfig(shrinkage=0)), strict=True):
        torch.testing.assert_close(one, other)
    spared = gradients(ProjectionConfig("intra", rank=2), unprojected=["layer.weight"])
    torch.testing.assert_close(spared[0], plain[0])
    assert not torch.allclose(factored[0], plain[0])
    assert torch.equal(spared[2], factored[2])


def test_the_clamp_has_no_part_in_it() -> None:
    results = [gradients(ProjectionConfig("intra", rank=2, max_removed=limit)) for limit in (None, 0.5, 0.0)]
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_records_compare_with_the_microbatch_s_own_gradient() -> None:
    plain = gradients(ProjectionConfig("intra", rank=0))
    module, x, advantages = problem()
    with Proma(module, ProjectionConfig("intra", rank=2), record=True) as proma:
        proma.backward(log_probs(module, x), advantages)
        records = {record.parameter: record for record in proma.stats()}
    assert records.keys() == {"layer.weight", "head.weight"}
    for number, name in ((0, "layer.weight"), (2, "head.weight")):
        removed = float((plain[number] - list(module.parameters())[number].grad).norm())
        assert records[name].removed_norm == pytest.approx(removed)
        assert records[name].removed_ratio == pytest.approx(removed / float(plain[number].norm()))
        assert (records[name].microbatch, records[name].clamped, records[name].gram_method) == (0, False, "intra")


def test_an_empty_sequence_is_no_obstacle() -> None:
    module, x, advantages = problem()
    ids = torch.tensor([0, 0, 0, 2, 2, 2, 2, 2])
    with Proma(module, ProjectionConfig("intra", rank=2)) as proma:
        rows = log_probs(module, x)
        proma.backward(rows.new_zeros(3).index_add(0, ids, rows), advantages[:3], ids, microbatch_size=1)
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters())
