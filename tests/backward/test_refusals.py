"""Wrong uses are refused in words, before any gradient changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from backward_policies import Classifier, initialise
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from proma_bench import ProjectionConfig, Proma


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
        (lambda out: out[:2, 0], torch.ones(2), None, r"shape \[4, 5\], whose first axis is not the 2 sequences"),
        (lambda out: out[:2, 0], torch.ones(2), torch.tensor([0, 0, 1]), r"\[4, 5\].*sequence_ids, \[3\]"),
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


def test_a_graph_from_before_the_attach_is_refused() -> None:
    module = initialise(Classifier(), torch.float32)
    log_probs = module(torch.randn(4, 6))[:, 0]
    with Proma(module) as proma, pytest.raises(ValueError, match="does not depend on the module"):
        proma.backward(log_probs, torch.ones(4))


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


def test_a_weight_used_directly_is_noticed() -> None:
    module, proma, rows = attached()
    hidden = module(rows)
    leak = F.linear(rows, module.layers[0].weight).sum(1)
    with pytest.raises(RuntimeError, match=r"'layers.0.weight'.*outside of its module's forward"):
        proma.backward(hidden.sum(1) + leak, torch.ones(4))
    with pytest.raises(RuntimeError, match=r"outside of its module's forward"), proma.microbatch(torch.ones(4)):
        (module(rows).sum() + module.layers[2].bias.sum()).backward()


def test_positions_that_are_shared_by_the_batch_are_refused() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(5, 6), nn.Linear(6, 3)

        def forward(self, rows: Tensor) -> Tensor:
            return self.out(rows + self.table(torch.arange(5).unsqueeze(0)))

    module = Positions()
    with Proma(module) as proma, pytest.raises(ValueError, match=r"'table' \(Embedding\).*expand it over the batch"):
        proma.backward(module(torch.randn(4, 5, 6)).sum((1, 2)), torch.ones(4))


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
        (nn.GRU(3, 3), r"the module \(GRU\).*cell of Linear layers"),
        (nn.MultiheadAttention(4, 2), "without calling their modules"),
        (nn.Sequential(nn.Embedding(4, 4, max_norm=1.0)), r"'0' \(Embedding\).*max_norm"),
        (nn.EmbeddingBag(4, 4), "sums rows"),
        (nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)), "parametrized weight"),
        (nn.ReLU(), "ReLU has no trainable parameter"),
    ],
)
def test_uncovered_modules_are_refused_by_name(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Proma(module)


def test_qr_is_refused_in_the_engine() -> None:
    with pytest.raises(ValueError, match="use 'exact'"):
        Proma(nn.Linear(2, 2), ProjectionConfig("qr"))


def test_a_layer_that_returns_a_tuple_is_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
            return rows * self.weight, rows

    module = Two()
    with Proma(module), pytest.raises(TypeError, match=r"the module \(Two\): forward returned a tuple"):
        module(torch.randn(2, 3))


def test_a_forward_replaced_on_the_instance_is_refused_where_a_rule_would_be_blind_to_it() -> None:
    module = initialise(Classifier(), torch.float32)
    module.forward = lambda rows: module.layers(rows) * 2.0  # on a container nothing depends on it
    with Proma(module) as proma:
        proma.backward(module(torch.randn(4, 6))[:, 0], torch.ones(4))
    plain = module.layers[0].forward
    module.layers[0].forward = lambda rows: plain(rows) * 2
    with pytest.raises(ValueError, match=r"'layers.0' \(Linear\).*forward was replaced"):
        Proma(module)


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
    with pytest.raises(ValueError, match="has parameters that no rule covers \\(sinks\\): they stand beside"):
        Proma(module)
