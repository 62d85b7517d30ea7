"""Errors, threads, copies and other users of a module: nothing is left behind, and nothing of others is taken away."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from trust import (
    ADVANTAGES,
    CONFIG,
    REFUSALS,
    WAYS,
    X2,
    Batch,
    Case,
    X,
    assert_right,
    double,
    leaves_of,
    outcome,
    run_batch,
    score,
    snapshot,
    wanted_gradients,
)

from proma_bench import Proma


def mlp() -> Any:
    return double(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 3)))


def plain(model: Any) -> Tensor:
    return score(model(X))


def second(model: Any) -> Tensor:
    return score(model(X2))


BATCHES = [Batch(plain), Batch(second)]


def gradients(model: Any) -> dict[str, Tensor | None]:
    return snapshot(dict(model.named_parameters()))


def assert_same(found: dict[str, Tensor | None], before: dict[str, Tensor | None]) -> None:
    for name, old in before.items():
        new = found[name]
        assert (old is None and new is None) or (old is not None and new is not None and torch.equal(old, new)), name


# ------------------------------------------------------------------------------------------------ errors half-way


@contextmanager
def failing_at(layer: nn.Module) -> Iterator[None]:
    """The gradient that reaches this layer's output raises an error, when those above it have had theirs."""

    def fail(_: Tensor) -> None:
        raise ArithmeticError("half-way")

    handle = layer.register_forward_hook(lambda _, __, output: output.register_hook(fail) and None)
    yield
    handle.remove()


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_a_plain_backward_that_fails_half_way_may_be_retried(layer: int) -> None:
    model, reference = mlp(), mlp()
    plain(reference).sum().backward()
    with Proma(model):
        for _ in range(3):
            with failing_at(model[layer]), pytest.raises(ArithmeticError):
                plain(model).sum().backward()
            model.zero_grad()
        plain(model).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, reference.get_parameter(name).grad, msg=name)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_a_microbatch_that_fails_half_way_changes_nothing_and_may_be_retried(layer: int, way: str) -> None:
    model = mlp()
    case = Case(model, BATCHES)
    wanted = wanted_gradients(case, BATCHES)
    with Proma(model, CONFIG) as proma:
        for number, (batch, want) in enumerate(zip(BATCHES, wanted, strict=True)):
            before = gradients(model)
            for _ in range(2):
                with failing_at(model[layer]), pytest.raises(ArithmeticError):
                    run_batch(model, proma, batch, way, number)
                assert_same(gradients(model), before)
            run_batch(model, proma, batch, way, number)
            assert_right(gradients(model), want)


@pytest.mark.parametrize("way", WAYS)
def test_a_plain_backward_that_failed_does_not_reach_into_a_microbatch(way: str) -> None:
    model = mlp()
    (want,) = wanted_gradients(Case(model, BATCHES[:1]), BATCHES[:1])
    with Proma(model, CONFIG) as proma:
        with failing_at(model[0]), pytest.raises(ArithmeticError):
            second(model).sum().backward()
        model.zero_grad()
        run_batch(model, proma, BATCHES[0], way, 0)
    assert_right(gradients(model), want)


def test_a_microbatch_that_failed_keeps_no_activations() -> None:
    """They may be gigabytes, and the next try is perhaps one with less memory."""
    model = mlp()
    with Proma(model, CONFIG) as proma:
        for _ in range(3):
            with failing_at(model[0]), pytest.raises(ArithmeticError):
                run_batch(model, proma, BATCHES[0], "backward", 0)
            assert not proma._engine._uses


# ------------------------------------------------------------------------------------------------ other threads


@contextmanager
def another_thread(work: Callable[[], object]) -> Iterator[None]:
    """Does this all the time, and the interpreter changes threads as often as it can."""
    stop, interval = threading.Event(), sys.getswitchinterval()

    def loop() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=loop, daemon=True)
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("recording", [True, False], ids=["graph", "no_grad"])
@pytest.mark.parametrize("way", WAYS)
def test_another_thread_may_run_the_model_meanwhile(way: str, recording: bool) -> None:
    """A server that samples from the policy in training, say: 100 passes, each of which is right or refused."""
    model = mlp()
    (want,) = wanted_gradients(Case(model, BATCHES[:1]), BATCHES[:1])

    def sample() -> None:
        with torch.set_grad_enabled(recording), contextlib.suppress(*REFUSALS):
            second(model)

    with Proma(model, CONFIG) as proma, another_thread(sample):
        for _ in range(100):
            model.zero_grad()
            before = gradients(model)
            try:
                run_batch(model, proma, BATCHES[0], way, 0, want.log_probs)
            except REFUSALS:
                assert_same(gradients(model), before)
            else:
                assert_right(gradients(model), want)


# ------------------------------------------------------------------------------------------------ what is attached to


def test_complex_parameters_are_refused_when_attaching() -> None:
    model = nn.Sequential(nn.Linear(6, 3, dtype=torch.complex128))
    with pytest.raises(ValueError, match=r"0\.weight|'0'"):
        Proma(model)


@pytest.mark.parametrize("way", WAYS)
def test_parameters_left_out_stay_left_out_when_a_state_is_assigned(way: str) -> None:
    model, left_out = mlp(), ("0.weight", "3.bias")
    state = {name: nn.Parameter(value.clone()) for name, value in model.named_parameters()}
    wanted = wanted_gradients(Case(model, BATCHES), BATCHES)
    plainly = wanted_gradients(Case(model, BATCHES, config=type(CONFIG)(shrinkage=0)), BATCHES)
    with Proma(model, CONFIG, unprojected=left_out) as proma:
        model.load_state_dict(state, assign=True)
        for number, batch in enumerate(BATCHES):
            run_batch(model, proma, batch, way, number)
    mixed = {name: (plainly if name in left_out else wanted)[-1].gradients[name] for name in state}
    assert_right(gradients(model), wanted[-1]._replace(gradients=mixed))


def test_removing_leaves_what_others_have_put_there_since() -> None:
    model = mlp()
    proma = Proma(model)
    former = model[0].forward

    def theirs(rows: Tensor) -> Tensor:
        return former(rows) * 2

    model[0].forward = theirs
    proma.remove()
    assert model[0].forward is theirs
    twice = model[0](X)
    del model[0].forward
    torch.testing.assert_close(twice, model[0](X) * 2)


def test_a_removed_proma_frees_the_parameters() -> None:
    model = mlp()
    proma = Proma(model)
    proma.backward(plain(model), ADVANTAGES)
    parameters = [weakref.ref(parameter) for parameter in model.parameters()]
    del model, proma
    gc.collect()
    assert not any(reference() is not None for reference in parameters)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "averaged": lambda model: AveragedModel(model).module,
    "copy of a copy": lambda model: copy.deepcopy(copy.deepcopy(model)),
}


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("way", WAYS)
def test_copies_of_an_attached_model_can_be_attached_to(way: str, kind: str, used: bool) -> None:
    model = mlp()
    with Proma(model, CONFIG) as proma:
        if used:
            run_batch(model, proma, BATCHES[1], way, 0)
        other = COPIES[kind](model)
        other.zero_grad()
        assert outcome(Case(other, BATCHES), way) == "right"
        model.zero_grad()
        (want,) = wanted_gradients(Case(mlp(), BATCHES[:1]), BATCHES[:1])
        run_batch(model, proma, BATCHES[0], way, 0)
        assert_right(gradients(model), want)


# ----------------------------------------------------------------------------------- other ways to call backward


def test_torch_autograd_grad_in_a_microbatch_is_refused() -> None:
    model = mlp()
    with Proma(model, CONFIG) as proma, pytest.raises(REFUSALS), proma.microbatch(ADVANTAGES):
        torch.autograd.grad(-plain(model).sum(), list(model.parameters()))
    assert all(parameter.grad is None for parameter in model.parameters())


def in_two_parts(loss: Callable[[], Tensor], model: Any) -> None:
    loss().backward()
    (-second(model).sum()).backward()


CALLS: dict[str, tuple[Callable[[Any], Tensor], Callable[[Callable[[], Tensor], Any], object]]] = {
    "torch.autograd.backward": (plain, lambda loss, _: torch.autograd.backward([loss()])),
    "with a gradient": (plain, lambda loss, _: torch.autograd.backward([loss()], [torch.ones((), dtype=X.dtype)])),
    "of the vector": (plain, lambda _, model: plain(model).backward(-torch.ones(4, dtype=X.dtype))),
    "in two parts": (lambda model: plain(model) + second(model), in_two_parts),
    "of two roots": (
        lambda model: plain(model) + second(model),
        lambda loss, model: torch.autograd.backward([loss(), -second(model).sum()]),
    ),
    "with inputs": (plain, lambda loss, model: loss().backward(inputs=list(model.parameters()))),
    "with a graph": (plain, lambda loss, _: loss().backward(retain_graph=True)),
}


@pytest.mark.parametrize("call", CALLS)
def test_backward_called_in_another_way_is_right_or_refused(call: str) -> None:
    """Twice in one microbatch is the sum of both. If the second is refused, what the first has done may stand."""
    model = mlp()
    log_probs, backward = CALLS[call]
    batches = [Batch(second), Batch(log_probs)]
    *_, want = wanted_gradients(Case(model, batches), batches)
    *_, first = wanted_gradients(Case(model, [*BATCHES[1:], *BATCHES[:1]]), [*BATCHES[1:], *BATCHES[:1]])
    leaves = leaves_of(Case(model, batches), model)
    with Proma(model, CONFIG) as proma:
        run_batch(model, proma, batches[0], "microbatch", 0)
        before = snapshot(leaves)
        try:
            with proma.microbatch(ADVANTAGES):
                backward(lambda: -plain(model).sum(), model)
        except REFUSALS:
            if all(torch.equal(snapshot(leaves)[name], old) for name, old in before.items()):
                return
            assert_right(snapshot(leaves), first)
        else:
            assert_right(snapshot(leaves), want)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_the_vector_of_log_probs_may_be_differentiated_without_a_sum(number: int) -> None:
    def gradients(*, with_sum: bool) -> list[Tensor]:
        model = mlp()
        with Proma(model, CONFIG) as proma:
            for rows in (X, X2, X):
                log_probs = score(model(rows[:number]))
                with proma.microbatch(ADVANTAGES[:number]):
                    (-log_probs.sum()).backward() if with_sum else log_probs.backward(-torch.ones_like(log_probs))
        return [parameter.grad for parameter in model.parameters()]

    for one, other in zip(gradients(with_sum=False), gradients(with_sum=True), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
