"""The literal hooks and the engine give the same numbers, so that their times may be compared."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from benchmarks.literal import LiteralHooks
from proma_bench import ProjectionConfig, Proma


def two_layers(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 48, bias=False), nn.Tanh(), nn.Linear(48, 16, bias=False)).to(dtype)


def microbatches(dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Inputs, output gradients and advantages. The inputs need a gradient, or full-backward hooks do not fire."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) + 0.5).to(dtype)

    return [(draw(8, 5, 24).requires_grad_(), draw(8, 5, 16), draw(8)) for _ in range(4)]


def gradients(module: nn.Module, attached: Proma | LiteralHooks, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    for inputs, output_grads, advantages in microbatches(dtype):
        output = module(inputs)
        with attached.microbatch(advantages):
            output.backward(output_grads)
    attached.remove()
    return [p.grad for p in module.parameters()]


@pytest.mark.parametrize(("literal", "ours"), [("iterative", "iterative"), ("qr", "exact")])
@pytest.mark.parametrize("max_removed", [0.5, None])
def test_equals_the_engine(literal: str, ours: str, max_removed: float | None) -> None:
    first = two_layers()
    second = copy.deepcopy(first)
    got = gradients(first, LiteralHooks(first, ProjectionConfig(literal, max_removed=max_removed)))
    wanted = gradients(second, Proma(second, ProjectionConfig(ours, max_removed=max_removed)))
    for value, expected in zip(got, wanted, strict=True):
        assert (value - expected).norm() <= 1e-4 * expected.norm()


def test_bfloat16_is_computed_in_float32() -> None:
    module = two_layers(torch.bfloat16)
    wide = copy.deepcopy(module).float()
    config = ProjectionConfig()
    got = gradients(module, LiteralHooks(module, config), torch.bfloat16)
    wanted = gradients(wide, LiteralHooks(wide, config))
    assert all(value.dtype == torch.bfloat16 for value in got)
    for value, expected in zip(got, wanted, strict=True):
        assert (value.float() - expected).norm() <= 0.05 * expected.norm()


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="'exact'"):
        LiteralHooks(two_layers(), ProjectionConfig("exact"))
