"""The slow, obviously right way: one sequence at a time through plain autograd, then the literal projection by QR."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from proma_bench.projection import ProjectionConfig, accumulate


class Micro(NamedTuple):
    """A microbatch as a list of sequences: ``log_prob(module, i)`` is the log-prob of the i-th, alone."""

    log_prob: Callable[[nn.Module, int], Tensor]
    advantages: Tensor


def oracle_gradients(
    module: nn.Module,
    micros: Sequence[Micro],
    config: ProjectionConfig,
    before: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """What ``param.grad`` must be after these microbatches, by name, in the module's own type.

    before: what it was.
    """
    config = replace(config, method="qr") if config.method == "exact" else config
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    running: dict[str, Tensor | None] = dict.fromkeys(parameters) | dict(before or {})
    for micro in micros:
        rows = [
            torch.autograd.grad(-micro.log_prob(module, i), list(parameters.values()))
            for i in range(len(micro.advantages))
        ]
        for name, seq_grads in zip(parameters, map(torch.stack, zip(*rows, strict=True)), strict=True):
            advantages = micro.advantages.to(seq_grads.dtype)
            running[name] = accumulate(running[name], seq_grads, advantages, config)
    return {name: gradient for name, gradient in running.items() if gradient is not None}


def assert_gradients(module: nn.Module, expected: dict[str, Tensor], relative: float) -> None:
    """Every trainable parameter's gradient is the expected one, within ``relative`` of its norm."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{name} is frozen and has a gradient"
            continue
        assert parameter.grad is not None, f"{name} has no gradient"
        difference = (parameter.grad.double() - expected[name].double()).norm()
        error = float(difference / expected[name].double().norm())
        assert error <= relative, f"{name}: relative error {error:.2e}, allowed {relative:.0e}"
