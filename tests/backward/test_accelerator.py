"""The backward engine on a pretend accelerator: the CPU's gradients, from another thread, and nothing waits for it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pretend_accelerator
import pytest
import torch
from causal_lm import tiny_qwen3
from pretend_accelerator import captured, noted, replay
from torch import Tensor, nn

from proma_bench import ProjectionConfig, Proma
from proma_bench.backward import proma as proma_module
from proma_bench.backward import streams
from proma_bench.backward.cost import GRAM_METHODS
from proma_bench.language.models import checkpoint_layers
from proma_bench.projection.rules import UPDATE_RULES
from proma_bench.projection.updates import UpdateRule

pytestmark = pytest.mark.accelerator

CPU = torch.device("cpu")
WAITS = pytest.mark.xfail(raises=AssertionError, strict=True, reason="intra waits for qr and eigh, see docs/gpu.md")
METHODS = ["iterative", "exact", "ridge", pytest.param("intra", marks=WAITS)]


# ---------------------------------------------------------------------------------------------- the device itself


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: torch.ones(3).to(x.device),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: x[x > 0],
        lambda x: x[torch.tensor([0])],
        lambda x: x.masked_select(x > 0),
        lambda x: (x > 0).nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: x.masked_fill_(x > 0, 1.0).unique(),
        lambda x: torch.equal(x, x),
        lambda x: torch.allclose(x, x),
        lambda x: torch.linalg.cholesky(x @ x.T + 10 * torch.eye(3, device=x.device)),
        torch.linalg.eigh,
        torch.linalg.qr,
        torch.linalg.inv,
        lambda x: torch.linalg.solve(x, x),
        torch.linalg.svd,
        torch.linalg.pinv,
    ],
)
def test_a_wait_is_seen(wait: Callable[[Tensor], Any]) -> None:
    x = torch.randn(3, 3, device=pretend_accelerator.device())
    with noted() as waits:
        wait(x)
    assert len(waits) == 1 and not waits[0].in_backward


def test_what_needs_no_answer_is_no_wait() -> None:
    device = pretend_accelerator.device()
    x = torch.randn(3, 3, device=device)
    with noted() as waits:
        torch.linalg.cholesky_ex(x @ x.T)
        torch.linalg.solve_triangular(x.triu(), x, upper=True)
        torch.where(x > 0, x, 0.0)[torch.arange(3, device=device)] += 1.0
        torch.ones(3).to(device, non_blocking=True)
    assert not waits


def test_autograd_has_a_thread_for_it_and_devices_do_not_mix() -> None:
    x = torch.randn(3, 3, device=pretend_accelerator.device(), requires_grad=True)
    seen = []
    x.register_hook(lambda gradient: seen.append(gradient.sum().item()))  # type: ignore[no-untyped-call]
    with noted() as waits:
        (x @ x).sum().backward()  # type: ignore[no-untyped-call]
    assert len(seen) == 1 and [wait.in_backward for wait in waits] == [True]
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(3, 3)


# ----------------------------------------------------------------------------------------------------- the engine


def microbatches(device: torch.device, count: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        tokens = torch.randint(61, (6, 8), generator=generator)
        yield tokens.to(device), torch.randn(6, generator=generator).to(device)


def log_probs_of(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(input_ids=tokens).logits[:, :-1]
    return logits.log_softmax(-1).gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1).sum(1)


def moved(model: nn.Module, device: torch.device) -> nn.Module:
    model = copy.deepcopy(model).to(device)
    model.tie_weights()  # a tensor of another class is another parameter
    return model


def gradients(
    device: torch.device,
    config: ProjectionConfig | UpdateRule,
    size: int | None = None,
    checkpointing: bool = False,
    **options: Any,
) -> dict[str, Tensor]:
    """After four microbatches of one structure, of which all but the first must not wait in their backward pass."""
    model = moved(tiny_qwen3(torch.float32), device).train()
    if checkpointing:
        checkpoint_layers(model)
    with Proma(model, config, **options) as proma:
        for number, (tokens, advantages) in enumerate(microbatches(device)):
            log_probs = log_probs_of(model, tokens)
            with noted() as waits:
                proma.backward(log_probs, advantages, microbatch_size=size)
            assert number == 0 or not [wait for wait in waits if wait.in_backward]
            assert number == 0 or len(waits) <= 1, "whether all numbers are finite"
        if options.get("record"):
            with noted() as waits:
                assert {record.parameter for record in proma.stats()}
            assert len(waits) <= 1
    return {name: parameter.grad.cpu() for name, parameter in model.named_parameters()}


def assert_the_cpu_s(config: ProjectionConfig | UpdateRule, **options: Any) -> None:
    found = gradients(pretend_accelerator.device(), config, **options)
    for name, wanted in gradients(CPU, config, **options).items():
        error = float((found[name] - wanted).norm() / wanted.norm())
        assert error < 1e-3, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("gram_method", GRAM_METHODS)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_the_cpus_and_nothing_waits(method: str, gram_method: str) -> None:
    assert_the_cpu_s(ProjectionConfig(method), gram_method=gram_method)


@pytest.mark.parametrize(
    "options", [{"size": 2}, {"checkpointing": True}, {"record": True}], ids=lambda o: next(iter(o))
)
@pytest.mark.parametrize("method", METHODS)
def test_with_virtual_microbatches_checkpointing_and_records(method: str, options: dict[str, Any]) -> None:
    assert_the_cpu_s(ProjectionConfig(method), **options)


@pytest.mark.parametrize("name", UPDATE_RULES)
def test_other_update_rules(name: str) -> None:
    """What a rule observes comes from the device number by number, but not before somebody asks for it."""
    assert_the_cpu_s(UPDATE_RULES[name](), size=2, record=name != "observe")


@pytest.mark.parametrize("options", [{"workspace_bytes": 40_000}, {"check": "always"}, {"check": False}])
def test_with_little_memory_and_other_checks(options: dict[str, Any]) -> None:
    device = pretend_accelerator.device()
    found = {}
    for place in (CPU, device):
        model = moved(tiny_qwen3(torch.float32), place)
        with Proma(model, **options) as proma:
            for tokens, advantages in microbatches(place):
                proma.backward(log_probs_of(model, tokens), advantages)
        found[place] = torch.cat([parameter.grad.cpu().flatten() for parameter in model.parameters()])
    assert (found[device] - found[CPU]).norm() < 1e-3 * found[CPU].norm()


# ------------------------------------------------------------------------------------------------- a captured graph


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("method", METHODS)
def test_a_captured_microbatch_is_right_when_it_is_replayed(
    method: str, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a later microbatch is decided on the CPU: its work on other numbers is the microbatch of those."""
    device, config = pretend_accelerator.device(), ProjectionConfig(method)
    expected = gradients(CPU, config, size)
    model = moved(tiny_qwen3(torch.float32), device)
    *eager, (tokens, advantages), (other_tokens, other_advantages) = microbatches(device)
    with Proma(model, config) as proma:
        for some_tokens, some_advantages in eager:
            proma.backward(log_probs_of(model, some_tokens), some_advantages, microbatch_size=size)
        for module in (streams, proma_module):
            monkeypatch.setattr(module, "is_captured", lambda _: True)
        with captured() as tape, noted() as waits:
            proma.backward(log_probs_of(model, tokens), advantages, microbatch_size=size)
        assert not waits
        tokens.copy_(other_tokens)
        advantages.copy_(other_advantages)
        replay(tape)
    found = {name: parameter.grad.cpu() for name, parameter in model.named_parameters()}
    for name, wanted in expected.items():
        assert (found[name] - wanted).norm() < 1e-3 * wanted.norm(), name


def test_what_has_not_been_verified_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_qwen3(torch.float32)
    (tokens, advantages), *_ = microbatches(CPU)
    with Proma(model) as proma:
        monkeypatch.setattr(streams, "is_captured", lambda _: True)
        with pytest.raises(ValueError, match="cannot be captured"):
            proma.backward(log_probs_of(model, tokens), advantages)
    assert all(parameter.grad is None for parameter in model.parameters())
