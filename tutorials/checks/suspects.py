"""The three programs of lesson 4's bug hunt. Each accumulates a step with PROMA, and each has one mistake.

Read them after the hunt, not before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from proma_bench import ProjectionConfig, Proma

LogProbs = Callable[[nn.Module, Tensor], Tensor]
Microbatches = Sequence[tuple[Tensor, Tensor]]
Gradients = dict[str, Tensor]


def program_a(
    policy: nn.Module, log_probs: LogProbs, microbatches: Microbatches, config: ProjectionConfig
) -> Gradients:
    """Its microbatches are nested: each one contains the sequences of those before it."""
    so_far = [microbatches[: number + 1] for number in range(len(microbatches))]
    nested = [(torch.cat([rows for rows, _ in some]), _with_zeros([part for _, part in some])) for some in so_far]
    return _accumulated(policy, log_probs, nested, config)


def program_b(
    policy: nn.Module, log_probs: LogProbs, microbatches: Microbatches, config: ProjectionConfig
) -> Gradients:
    """It seeds the backward pass with the advantages."""
    with Proma(policy, config) as proma:
        for rows, advantages in microbatches:
            proma.backward(advantages * log_probs(policy, rows), torch.ones_like(advantages))
    return _taken(policy)


def program_c(
    policy: nn.Module, log_probs: LogProbs, microbatches: Microbatches, config: ProjectionConfig
) -> Gradients:
    """It takes the two uses of the tied weight for two tensors, so their cross terms are missing."""
    untied = copy.deepcopy(policy)
    untied.head.weight = nn.Parameter(untied.head.weight.detach().clone())
    gradients = _accumulated(untied, log_probs, microbatches, config)
    gradients["embedding.weight"] = gradients["embedding.weight"] + gradients.pop("head.weight")
    return gradients


def _with_zeros(advantages: list[Tensor]) -> Tensor:
    """Only the last microbatch adds its gradient; those before it are there, and only remove."""
    return torch.cat([*(torch.zeros_like(part) for part in advantages[:-1]), advantages[-1]])


def _accumulated(
    policy: nn.Module, log_probs: LogProbs, microbatches: Microbatches, config: ProjectionConfig
) -> Gradients:
    with Proma(policy, config) as proma:
        for rows, advantages in microbatches:
            proma.backward(log_probs(policy, rows), advantages)
    return _taken(policy)


def _taken(policy: nn.Module) -> Gradients:
    """The running gradients, which are those of a loss with the other sign; the policy keeps none."""
    gradients = {name: -parameter.grad for name, parameter in policy.named_parameters() if parameter.grad is not None}
    policy.zero_grad()
    return gradients


PROGRAMS = {"A": program_a, "B": program_b, "C": program_c}
