"""A gate belongs to a stream, and a microbatch uses one stream. The streams are made up: there is no device here."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from torch import Tensor, nn

from proma_bench import Proma
from proma_bench.backward import streams, taps

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


def gates_of(root: Tensor) -> list[object]:
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
