"""The backward engine on a pretend accelerator: the CPU's gradients, from another thread, and nothing waits for it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import architectures
import architectures_sequences
import pretend_accelerator
import pytest
import torch
from causal_lm import tiny_qwen3
from pretend_accelerator import noted
from torch import Tensor, nn
from trust import double

from proma_bench import ProjectionConfig, Proma
from proma_bench.backward.cost import GRAM_METHODS
from proma_bench.language.models import checkpoint_layers

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
    logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[:, :-1]
    return logits.log_softmax(-1).gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1).sum(1)


def moved(model: nn.Module, device: torch.device) -> nn.Module:
    model = copy.deepcopy(model).to(device)
    model.tie_weights()  # a tensor of another class is another parameter
    return model


def gradients(
    device: torch.device, config: ProjectionConfig, size: int | None = None, checkpointing: bool = False, **options: Any
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


def assert_the_cpu_s(config: ProjectionConfig, **options: Any) -> None:
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


# ----------------------------------------------------------------------------------------- where rows are elsewhere


class TimeFirst(nn.Module):
    """Activations [T, B, d]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layer(x.transpose(0, 1)).tanh())).squeeze(-1).sum(0)


class Flat(nn.Module):
    """Activations [N, d] of rows that belong to sequences by their ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(300, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.embedding(x).tanh()).squeeze(-1)


class Direct(nn.Module):
    """A parameter without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(5, 7), nn.Parameter(torch.linspace(0.5, 1.5, 7))

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x).tanh() * self.scale.exp()).sum((1, 2))


IDS = torch.tensor([0, 0, 1, 1, 1, 2, 4, 4, 4, 4, 5, 5])
"""Of sequences of unequal length, one of which is empty."""


def three_microbatches(
    make: Callable[[], nn.Module], device: torch.device, vectors_on: str
) -> tuple[Tensor, list[Any]]:
    """The gradients after three microbatches of one structure, and the waits in the last one's backward pass."""
    torch.manual_seed(0)
    module = make()
    generator = torch.Generator().manual_seed(1)
    module = module.to(device)
    with Proma(module, record=True) as proma:
        for _ in range(3):
            advantages = torch.randn(6, generator=generator)
            if isinstance(module, Flat):
                ids = IDS.to(device) if vectors_on == "device" else IDS
                rows = module(torch.randint(300, IDS.shape, generator=generator).to(device))
                log_probs = rows.new_zeros(6).index_add(0, IDS.to(device), rows)
            else:
                ids, log_probs = None, module(torch.randn(6, 4, 5, generator=generator).to(device))
                advantages = advantages if vectors_on == "cpu" else advantages.to(device)
            with noted() as waits:
                proma.backward(log_probs, advantages, ids)
    return torch.cat([parameter.grad.cpu().flatten() for parameter in module.parameters()]), waits


@pytest.mark.parametrize("vectors_on", ["cpu", "device"])
@pytest.mark.parametrize("make", [TimeFirst, Flat, Direct], ids=["time first", "flat", "direct"])
def test_rows_of_other_layouts(make: Callable[[], nn.Module], vectors_on: str) -> None:
    """A parameter that is used directly waits once: whether its parts add up decides if anything changes."""
    found, waits = three_microbatches(make, pretend_accelerator.device(), vectors_on)
    wanted, _ = three_microbatches(make, CPU, vectors_on)
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()
    assert len([wait for wait in waits if wait.in_backward]) == (1 if make is Direct else 0), waits


ARCHITECTURES = architectures.ARCHITECTURES | architectures_sequences.ARCHITECTURES
FUSED, OWN_TENSORS = "the CPU lacks the fused kernel that a device has", "it makes a tensor on the CPU by itself"
NOT_THERE = {
    **dict.fromkeys(("gru", "lstm", "lstm, time first", "gru, two directions", "gru cell", "lstm cell"), FUSED),
    **dict.fromkeys(("own attention", "own attention, time first", "tokens, positions", "bag, offsets"), OWN_TENSORS),
    "packed gru": OWN_TENSORS,
    "tokens, tied": "moving it makes two parameters of the tied one",
}
"""Networks of `architectures` that cannot be on the pretend device."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=NOT_THERE[name])) if name in NOT_THERE else name
        for name in ARCHITECTURES
    ],
)
def test_networks_as_people_write_them(name: str) -> None:
    """Where rows move with the data each microbatch is verified, so that it waits; but nothing is on another device."""
    found = {}
    for device in (pretend_accelerator.device(), CPU):
        module = double(ARCHITECTURES[name]()).to(device)
        with Proma(module, uncovered="autograd") as proma:
            for seed in range(2):
                rows = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
                torch.manual_seed(seed)
                output = module(rows.to(device)).flatten(1)
                weights = torch.linspace(0.5, 1.5, output.shape[1], dtype=output.dtype, device=device)
                proma.backward((output.sin() * weights).sum(1), torch.linspace(-1, 1.5, 4).double().to(device))
        used = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        found[device] = torch.cat([gradient.cpu().flatten() for gradient in used])
    theirs, ours = found.values()
    assert (theirs - ours).norm() <= 1e-10 * ours.norm()
