"""A gate belongs to a stream, and a microbatch uses one stream. The streams are made up: there is no device here."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from proma_bench import Proma
from proma_bench.backward import streams, taps
from proma_bench.backward.engine import BackwardEngine

OnStream = Callable[[int], AbstractContextManager[None]]
X, ADVANTAGES = torch.linspace(-1, 1, 24).view(4, 6), torch.tensor([1.0, -1.0, 0.5, 2.0])


@pytest.fixture
def on_stream(monkeypatch: pytest.MonkeyPatch) -> OnStream:
    """In the context of a number, that is the number of the current stream."""
    number = 0

    def current(device: torch.device) -> streams.Stream:
        return device, number

    @contextmanager
    def context(chosen: int) -> Iterator[None]:
        nonlocal number
        before, number = number, chosen
        try:
            yield
        finally:
            number = before

    for module in (streams, taps):
        monkeypatch.setattr(module, "current_stream", current)
    return context


def made() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def log_probs(module: nn.Module) -> Tensor:
    return module(X).log_softmax(-1)[:, 0]


def test_microbatches_on_different_streams_are_those_on_one(on_stream: OnStream) -> None:
    found = []
    for numbers in ((0, 0, 0), (0, 1, 2)):
        module = made()
        with Proma(module) as proma:
            for number in numbers:
                with on_stream(number):
                    proma.backward(log_probs(module), ADVANTAGES)
        found.append([parameter.grad for parameter in module.parameters()])
    assert all(map(torch.equal, *found))


def test_another_stream_has_other_gates_and_nothing_of_the_old_one_stays(on_stream: OnStream) -> None:
    """CUDA graphs are captured on a stream of their own, on which no node may be older than the capture."""
    module = made()
    with Proma(module):
        kept = log_probs(module)
        old = [weakref.ref(node) for node in gates_of(kept)]
        assert len(old) == 4 and set(gates_of(log_probs(module))) == {ref() for ref in old}
        with on_stream(1):
            new = gates_of(log_probs(module))
            assert len(new) == 4 and not set(new) & {ref() for ref in old}
        del kept
        gc.collect()
        assert not any(ref() for ref in old)


def test_another_stream_has_another_node_for_the_parameter(on_stream: OnStream) -> None:
    """Autograd keeps one while anything refers to it, and it belongs to the stream on which it was made."""
    module = made()
    with Proma(module):
        for node in nodes_of_parameters(log_probs(module)):
            node.metadata["old"] = True
        assert all("old" in node.metadata for node in nodes_of_parameters(log_probs(module)))
        del node
        with on_stream(1):
            new = nodes_of_parameters(log_probs(module))
        assert len(new) == 4 and not any("old" in node.metadata for node in new)


class TiedByHand(nn.Module):
    """Its weight is used by a layer, and once more without one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(7, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.linear(self.embedding(tokens).tanh(), self.embedding.weight).log_softmax(-1)[..., 0].sum(1)


def test_a_direct_use_finds_what_layers_have_captured_on_another_stream(
    on_stream: OnStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook of a parameter may run on the stream of autograd's node for it."""
    tokens, found, complete = torch.arange(12).view(4, 3) % 7, [], BackwardEngine._complete
    for number in (0, 1):
        module = TiedByHand()
        with monkeypatch.context() as patch, Proma(module) as proma:

            def elsewhere(engine: BackwardEngine, *parts: Tensor, number: int = number) -> Tensor:
                with on_stream(number):
                    return complete(engine, *parts)

            patch.setattr(BackwardEngine, "_complete", elsewhere)
            proma.backward(module(tokens), ADVANTAGES)
        found.append(module.embedding.weight.grad)
    assert torch.equal(*found)


def nodes_of_parameters(root: Tensor) -> list[Any]:
    return [gate.next_functions[0][0] for gate in gates_of(root)]


def gates_of(root: Tensor) -> list[Any]:
    seen, stack = {root.grad_fn}, [root.grad_fn]
    while stack:
        for node, _ in stack.pop().next_functions:  # type: ignore[union-attr]
            if node is not None and node not in seen:
                seen.add(node)
                stack.append(node)
    return [node for node in seen if type(node) is taps.GATE_NODE]


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (1, 2)])
def test_a_backward_pass_on_another_stream_is_refused_before_anything_changes(
    on_stream: OnStream, numbers: tuple[int, int]
) -> None:
    module = made()
    with Proma(module) as proma:
        with on_stream(numbers[0]):
            computed = log_probs(module)
        with on_stream(numbers[1]), pytest.raises(ValueError, match="must use one stream"):
            proma.backward(computed, ADVANTAGES)
        assert all(parameter.grad is None for parameter in module.parameters())
        with on_stream(numbers[0]):
            proma.backward(computed, ADVANTAGES)


def test_a_forward_pass_on_two_streams_is_refused(on_stream: OnStream) -> None:
    """A layer that is used on both, and one that is used on one of them."""
    module = made()
    with Proma(module) as proma:
        hidden = module[0](X)
        with on_stream(1):
            hidden = hidden + module[0](X.flip(1))
            with pytest.raises(ValueError, match="must use one stream"):
                proma.backward(module[2](hidden.tanh()).log_softmax(-1)[:, 0], ADVANTAGES)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_plain_pass_over_two_streams_is_autograd_s(on_stream: OnStream) -> None:
    """Each stream's gate returns what was used on its stream, and autograd adds them up."""
    found = []
    for attached in (True, False):
        module = made()
        proma = Proma(module) if attached else None
        hidden = module[0](X)
        with on_stream(1):
            hidden = hidden + module[0](X.flip(1))
        module[2](hidden.tanh()).square().sum().backward()
        found.append([parameter.grad for parameter in module.parameters()])
        del proma
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
