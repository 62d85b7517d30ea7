"""Wrong uses are refused in words, before any gradient changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jaxtyping
import pytest
import torch
from backward_policies import EXACT, Classifier, initialise, seeded
from oracle import Micro, assert_gradients, oracle_gradients
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from proma_bench import ProjectionConfig, Proma, register_rule
from proma_bench.backward.layers.generic import generic


@contextmanager
def unchecked_shapes() -> Iterator[None]:
    """As outside of pytest: the annotations are not checked."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def attached(module: nn.Module | None = None) -> tuple[nn.Module, Proma, Tensor]:
    module = module or initialise(Classifier(), torch.float32)
    return module, Proma(module), torch.randn(4, 6)


@pytest.mark.parametrize(
    ("log_probs", "advantages", "ids", "message"),
    [
        (lambda out: out[:, 0], torch.ones(3), None, r"log_probs has shape \[4\] and advantages \[3\]"),
        (lambda out: out[:, 0], torch.ones(4, 1), None, r"advantages \[4, 1\]"),
        (lambda out: out, torch.ones(4, 5), None, r"log_probs must be .*\[4, 5\]"),
        (lambda out: out[:0, 0], torch.ones(0), None, r"log_probs must be .*\[0\]"),
        (lambda out: out[:, 0] / 0, torch.ones(4), None, "log_probs must be finite"),
        (lambda out: out[:, 0], torch.tensor([1, 2, float("nan"), 3]), None, r"sequences \[2\]"),
        (lambda out: out[:, 0], torch.ones(4, dtype=torch.long), None, "advantages must be floating-point"),
        (lambda out: out[:, 0].detach(), torch.ones(4), None, "does not depend on the module"),
        (lambda out: torch.randn(4, requires_grad=True), torch.ones(4), None, "does not depend on the module"),
        (lambda out: out[:2, 0], torch.ones(2), torch.tensor([0, 0, 1, 2]), "between 0 and 1.* from 0 to 2"),
        (lambda out: out[:2, 0], torch.ones(2), torch.tensor([0.0, 0, 1, 1]), "whole numbers"),
        (lambda out: out[:2, 0], torch.ones(2), torch.zeros(0, dtype=torch.long), "sequence_ids is empty"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_changes(
    log_probs: Callable[[Tensor], Tensor], advantages: Tensor, ids: Tensor | None, message: str
) -> None:
    module, proma, rows = attached()
    proma.backward(module(rows)[:, 0], torch.ones(4))
    before = [p.grad.clone() for p in module.parameters()]
    with pytest.raises(ValueError, match=message), unchecked_shapes():
        proma.backward(log_probs(module(rows)), advantages, ids)
    assert all(torch.equal(p.grad, old) for p, old in zip(module.parameters(), before, strict=True))
    proma.backward(module(rows)[:, 0], torch.ones(4))  # and the engine goes on working


def test_rows_without_a_part_in_the_log_probs_belong_to_nobody() -> None:
    """Four rows and two sequences: which rows those are is found, not assumed."""
    module = initialise(Classifier())
    rows, advantages = torch.randn(4, 6, dtype=torch.float64), torch.tensor([1.0, -0.5], dtype=torch.float64)
    (-(advantages * module(rows)[1:3, 0]).sum()).backward()
    wanted = {name: p.grad.clone() for name, p in module.named_parameters()}
    for ids in (None, torch.tensor([0, 0, 1])):
        module.zero_grad()
        with Proma(module) as proma:
            proma.backward(module(rows)[1:3, 0], advantages, ids)
        assert_gradients(module, wanted, 1e-12)


def test_a_graph_from_before_the_attach_is_followed_and_one_of_an_older_proma_is_refused() -> None:
    module = initialise(Classifier())
    rows, ones = torch.randn(4, 6, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    (-module(rows)[:, 0].sum()).backward()
    wanted = {name: p.grad.clone() for name, p in module.named_parameters()}
    module.zero_grad()
    log_probs = module(rows)[:, 0]
    with Proma(module) as proma:
        proma.backward(log_probs, ones)
        assert_gradients(module, wanted, 1e-12)
        log_probs = module(rows)[:, 0]
    with Proma(module) as proma, pytest.raises(ValueError, match=r"'layers.4' \(Linear\).*another Proma attached"):
        proma.backward(log_probs, ones)


def test_a_second_proma_is_refused() -> None:
    module, proma, _ = attached()
    with pytest.raises(ValueError, match="has a Proma attached already"):
        Proma(module)
    proma.remove()
    Proma(module).remove()


def test_microbatches_do_not_nest_and_must_reach_the_module() -> None:
    _, proma, _ = attached()
    with (
        pytest.raises(RuntimeError, match="cannot be nested"),
        proma.microbatch(torch.ones(4)),
        proma.microbatch(torch.ones(4)),
    ):
        pass
    with pytest.raises(RuntimeError, match="no gradient of this microbatch"), proma.microbatch(torch.ones(4)):
        pass


def test_a_parameter_that_enters_after_the_sum_is_refused() -> None:
    module, proma, rows = attached()
    with pytest.raises(ValueError, match="a parameter enters after the sum"), proma.microbatch(torch.ones(4)):
        (module(rows).sum() + module.layers[2].bias[0]).backward()
    with pytest.raises(ValueError, match="a parameter enters after the sum"), proma.microbatch(torch.ones(4)):
        (module(rows).sum() + module.layers[2].weight.square().sum()).backward()
    with pytest.raises(ValueError, match=r"adds up a tensor of shape \[5, 4\]"), proma.microbatch(torch.ones(4)):
        (module(rows).T + torch.randn(5, 1, requires_grad=True)).sum().backward()
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("shape", [(5,), (1, 5)])
def test_positions_that_are_shared_by_the_batch_are_followed_to_what_they_are_added_to(shape: tuple[int, ...]) -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(5, 6), nn.Linear(6, 3)

        def forward(self, rows: Tensor) -> Tensor:
            return self.out((rows + self.table(torch.arange(5).view(shape))).tanh())

    module = initialise(Positions())
    batches = torch.randn(3, 4, 5, 6, dtype=torch.float64, generator=seeded(0))
    advantages = torch.randn(3, 4, dtype=torch.float64, generator=seeded(1))
    micros = [Micro(lambda m, i, x=x: m(x[i : i + 1]).sum(), own) for x, own in zip(batches, advantages, strict=True)]
    wanted = oracle_gradients(module, micros, EXACT)
    with Proma(module, EXACT) as proma:
        for batch, own in zip(batches, advantages, strict=True):
            proma.backward(module(batch).sum((1, 2)), own)
    assert_gradients(module, wanted, 1e-9)


def test_a_module_shared_between_reentrant_checkpoints_is_refused() -> None:
    layer = nn.Linear(3, 3)
    with Proma(layer) as proma, pytest.raises(RuntimeError, match="use_reentrant=False"):
        hidden = checkpoint(layer, torch.randn(2, 3, requires_grad=True), use_reentrant=True)
        proma.backward(checkpoint(layer, hidden, use_reentrant=True).sum(1), torch.ones(2))
    with Proma(layer) as proma:
        hidden = checkpoint(layer, torch.randn(2, 3), use_reentrant=False)
        proma.backward(checkpoint(layer, hidden, use_reentrant=False).sum(1), torch.ones(2))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.ReLU(), "ReLU has no parameter"),
        (nn.Linear(3, 3, dtype=torch.complex64), "'weight' is complex"),
        (nn.Sequential(nn.Embedding(4, 4, sparse=True)), r"'0' \(Embedding\).*sparse"),
    ],
)
def test_what_cannot_be_attached_to(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Proma(module)


def test_what_mixes_rows_is_refused_by_name_with_the_remedy() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    rows, ones = torch.randn(4, 3).double(), torch.ones(4).double()
    with (
        Proma(module) as proma,
        pytest.raises(ValueError, match=r"'0' \(Linear\).*BatchNorm.*uncovered='autograd'.*4 more backward passes"),
    ):
        proma.backward(module(rows).square().sum(1), ones)


def test_qr_is_refused_in_the_engine() -> None:
    with pytest.raises(ValueError, match="use 'exact'"):
        Proma(nn.Linear(2, 2), ProjectionConfig("qr"))


def test_a_registered_layer_must_return_one_tensor() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
            return rows * self.weight, rows

    register_rule(Two)(generic)
    module = Two()
    with Proma(module), pytest.raises(TypeError, match=r"the module \(Two\): forward returned a tuple"):
        module(torch.randn(2, 3))


def test_parameters_of_others_are_refused() -> None:
    module, temperature = initialise(Classifier(), torch.float32), nn.Parameter(torch.ones(()))
    with Proma(module) as proma, pytest.raises(ValueError, match=r"shape \[\] that is not part of the module"):
        proma.backward(module(torch.randn(4, 6))[:, 0] * temperature, torch.ones(4))


class WithFrozenSinks(nn.Module):
    """Own parameters that are frozen beside a layer that is trained, as attention sinks beside LoRA's adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.sinks = nn.Parameter(torch.full((4,), 0.5), requires_grad=False)
        self.layer = nn.Linear(6, 4)

    def forward(self, rows: Tensor) -> Tensor:
        return self.layer(rows) * self.sinks


def test_frozen_parameters_beside_a_trained_layer_need_no_rule() -> None:
    module, advantages = WithFrozenSinks().double(), torch.tensor([1.0, -1.0, 0.5, 2.0]).double()
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).double()
    (-(advantages * module(x).sum(dim=1)).sum()).backward()
    wanted = module.layer.weight.grad.clone()
    module.zero_grad()
    with Proma(module) as proma:
        proma.backward(module(x).sum(dim=1), advantages)
    torch.testing.assert_close(module.layer.weight.grad, wanted)
    module.sinks.requires_grad_()
    module.zero_grad()
    (-(advantages * module(x).sum(dim=1)).sum()).backward()
    wanted = module.sinks.grad.clone()
    module.zero_grad()
    with Proma(module) as proma:
        proma.backward(module(x).sum(dim=1), advantages)
    torch.testing.assert_close(module.sinks.grad, wanted)


def test_a_loss_over_selected_tokens_is_followed_to_what_they_were_selected_from() -> None:
    module, advantages = initialise(Classifier()), torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    rows = torch.randn(3, 4, 6, dtype=torch.float64, generator=seeded(0))
    mask = torch.arange(4) < torch.tensor([[4], [1], [2]])

    def scores() -> Tensor:
        return module(rows).log_softmax(-1)[..., 0]

    (-(advantages * torch.where(mask, scores(), 0).sum(1)).sum()).backward()
    wanted = {name: p.grad.clone() for name, p in module.named_parameters()}
    module.zero_grad()
    with Proma(module) as proma, proma.microbatch(advantages):
        (-scores()[mask].sum()).backward()
    assert_gradients(module, wanted, 1e-12)


class Weighing(nn.Module):
    """What rows see of each other is data: nothing in the graph shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.mixture = nn.Linear(6, 5), nn.Linear(5, 3), torch.eye(4, dtype=torch.float64)

    def forward(self, rows: Tensor) -> Tensor:
        return self.last((self.mixture @ self.first(rows)).tanh())


def test_what_the_data_alone_decides_is_found_where_each_microbatch_is_checked() -> None:
    module, ones = initialise(Weighing()), torch.ones(4, dtype=torch.float64)
    rows = torch.randn(4, 6, dtype=torch.float64, generator=seeded(0))
    with Proma(module, check="always") as proma:
        proma.backward(module(rows).sin().sum(1), ones)
        before = [p.grad.clone() for p in module.parameters()]
        module.mixture = torch.full((4, 4), 0.25, dtype=torch.float64)
        with pytest.raises(ValueError, match=r"'first' \(Linear\).*more than one sequence"):
            proma.backward(module(rows).sin().sum(1), ones)
    assert all(torch.equal(p.grad, old) for p, old in zip(module.parameters(), before, strict=True))
    with pytest.raises(ValueError, match="check must be"), unchecked_shapes():
        Proma(module, check="never")  # type: ignore[arg-type]
