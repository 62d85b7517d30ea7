"""Every update rule written out on whole gradients, with literal loops in float64; shares nothing with the library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from backward_policies import MICROS
from oracle import Micro, literal_step
from torch import Tensor, nn

from proma_bench import ProjectionConfig
from proma_bench.projection.rules.clip import Clip
from proma_bench.projection.rules.isopo import AveragedIsopo, Isopo, NonInteractingIsopo
from proma_bench.projection.rules.observe import Observe
from proma_bench.projection.rules.pcgrad import PCGrad
from proma_bench.projection.rules.shrink import Shrink
from proma_bench.projection.rules.upgrad import UPGrad

Literal = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``step(running [n], seq_grads [B, n], advantages [B]) -> [n]``."""


def plain(running: Tensor, seq_grads: Tensor, advantages: Tensor) -> Tensor:
    result = running.clone()
    for advantage, row in zip(advantages, seq_grads, strict=True):
        result = result + float(advantage) * row
    return result


def eigenvalues(seq_grads: Tensor) -> tuple[Tensor, Tensor]:
    kernel = torch.tensor([[float(x @ y) for y in seq_grads] for x in seq_grads], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(kernel)
    return values, vectors


def isopo(regularisation: float, average: float | None = None) -> Literal:
    """``average`` stands for the mean eigenvalue if it is given."""

    def step(running: Tensor, seq_grads: Tensor, advantages: Tensor) -> Tensor:
        count = len(seq_grads)
        values, vectors = eigenvalues(seq_grads)
        shift = regularisation * (float(values.mean()) if average is None else average)
        result = running.clone()
        if shift <= 0:
            return result
        for k in range(count):
            along = sum(float(vectors[i, k] * advantages[i]) for i in range(count))
            weight = along * shift / (max(float(values[k]), 0.0) + shift)
            for i in range(count):
                result = result + weight * float(vectors[i, k]) * seq_grads[i]
        return result

    return step


def noninteracting(power: float, regularisation: float) -> Literal:
    def step(running: Tensor, seq_grads: Tensor, advantages: Tensor) -> Tensor:
        shift = regularisation * sum(norm(row) ** 2 for row in seq_grads) / len(seq_grads)
        result = running.clone()
        for advantage, row in zip(advantages, seq_grads, strict=True):
            if norm(row) > 0:
                result = result + float(advantage) * row / math.sqrt(norm(row) ** 2 + shift) ** power
        return result

    return step


def clip(max_norm: float | None) -> Literal:
    def step(running: Tensor, seq_grads: Tensor, advantages: Tensor) -> Tensor:
        limit = max_norm
        if limit is None:
            limit = math.sqrt(sum(norm(row) ** 2 for row in seq_grads) / len(seq_grads))
        result = running.clone()
        for advantage, row in zip(advantages, seq_grads, strict=True):
            clipped = row * limit / norm(row) if norm(row) > limit else row
            result = result + float(advantage) * clipped
        return result

    return step


def pcgrad(running: Tensor, seq_grads: Tensor, advantages: Tensor) -> Tensor:
    tasks = [float(advantage) * row for advantage, row in zip(advantages, seq_grads, strict=True)]
    result = running.clone()
    for i, own in enumerate(tasks):
        vector = own.clone()
        for j, other in enumerate(tasks):
            if i != j and float(vector @ other) < 0:
                vector = vector - (vector @ other) / (other @ other) * other
        result = result + vector
    return result


def upgrad(sweeps: int) -> Literal:
    def step(running: Tensor, seq_grads: Tensor, advantages: Tensor) -> Tensor:
        tasks = [float(advantage) * row for advantage, row in zip(advantages, seq_grads, strict=True)]
        result = running.clone()
        for own in tasks:
            vector, weights = own.clone(), [0.0] * len(tasks)
            for _ in range(sweeps):
                for j, other in enumerate(tasks):
                    if norm(other) > 0:
                        weight = max(0.0, weights[j] - float(vector @ other) / norm(other) ** 2)
                        vector = vector + (weight - weights[j]) * other
                        weights[j] = weight
            result = result + vector
        return result

    return step


def shrink(config: ProjectionConfig) -> Literal:
    def step(running: Tensor, seq_grads: Tensor, advantages: Tensor) -> Tensor:
        plain = advantages @ seq_grads
        removed = norm(literal_step(running, seq_grads, advantages, config) - plain - running)
        return running * (max(0.0, 1 - removed / norm(running)) if norm(running) > 0 else 1.0) + plain

    return step


def norm(vector: Tensor) -> float:
    return math.sqrt(float(vector @ vector))


CASES = [
    (Isopo(), isopo(1.0)),
    (Isopo(0.05), isopo(0.05)),
    (AveragedIsopo(), isopo(1.0)),  # in the first step
    (NonInteractingIsopo(), noninteracting(1.0, 1.0)),
    (NonInteractingIsopo(power=2, regularisation=0), noninteracting(2.0, 0.0)),
    (Clip(), clip(None)),
    (Clip(0.7), clip(0.7)),
    (PCGrad(), pcgrad),
    (UPGrad(1), upgrad(1)),
    (UPGrad(3), upgrad(3)),
    (Observe(), plain),
    (Shrink(), shrink(ProjectionConfig())),
    (Shrink(ProjectionConfig("ridge", max_removed=None)), shrink(ProjectionConfig("ridge", max_removed=None))),
]
"""Rules, each with its literal step."""


def pieces_of(size: int) -> list[Micro]:
    """The microbatches of `MICROS`, cut into smaller ones."""
    pieces = []
    for micro in MICROS:
        for start in range(0, len(micro.lengths), size):
            rows = range(start, min(start + size, len(micro.lengths)))
            alone = lambda m, i, micro=micro, rows=rows: micro.alone(m, rows[i])  # noqa: E731
            pieces.append(Micro(alone, micro.advantages[list(rows)]))
    return pieces


def literal_gradients(
    module: nn.Module, micros: Sequence[Micro], step: Literal, before: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """What ``param.grad`` must be after these microbatches, by name: one sequence at a time, through plain autograd."""
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    running = {name: torch.zeros(p.numel(), dtype=torch.float64) for name, p in parameters.items()}
    running |= {name: gradient.double().flatten() for name, gradient in (before or {}).items()}
    for micro in micros:
        rows = [
            torch.autograd.grad(-micro.log_prob(module, i), list(parameters.values()))
            for i in range(len(micro.advantages))
        ]
        for name, seq_grads in zip(parameters, zip(*rows, strict=True), strict=True):
            written = torch.stack([gradient.double().flatten() for gradient in seq_grads])
            running[name] = step(running[name], written, micro.advantages.double())
    return {name: running[name].reshape(p.shape).to(p.dtype) for name, p in parameters.items()}
