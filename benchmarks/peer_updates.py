"""What an update of each kind leaves, from sequence gradients that plain autograd writes out one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from benchmarks.peer_works import PeerWork
from proma_bench import ProjectionConfig, accumulate

Gradients = dict[str, Tensor]
Update = Callable[[Gradients, Gradients, Tensor], Gradients]
"""(gradients so far, sequence gradients, advantages) -> gradients."""

EXACT, ITERATIVE = ProjectionConfig("exact"), ProjectionConfig("iterative")


def plain_update(before: Gradients, seq_grads: Gradients, advantages: Tensor) -> Gradients:
    """``A + g``."""
    step = {name: torch.tensordot(advantages.to(rows.dtype), rows, 1) for name, rows in seq_grads.items()}
    return {name: before[name] + step[name] if name in before else step[name] for name in step}


def proma_update(config: ProjectionConfig) -> Update:
    """PROMA's literal step for every parameter."""

    def update(before: Gradients, seq_grads: Gradients, advantages: Tensor) -> Gradients:
        return {name: accumulate(before.get(name), rows, advantages, config) for name, rows in seq_grads.items()}

    return update


exact_update, iterative_update = proma_update(EXACT), proma_update(ITERATIVE)


def isopo_update(before: Gradients, seq_grads: Gradients, advantages: Tensor) -> Gradients:
    """``A + sum_i u_i S_i`` with ISOPO's ``u`` from the Gramian of all parameters."""
    gram = sum(rows.flatten(1).double() @ rows.flatten(1).double().T for rows in seq_grads.values())
    assert isinstance(gram, Tensor)
    return plain_update(before, seq_grads, isopo(gram, advantages))


def isopo(gram: Tensor, advantages: Tensor) -> Tensor:
    """``m (K + m I)^-1 a`` with the mean ``m`` of K's diagonal: an update that a Gramian alone allows."""
    gram = gram.double()
    damping = gram.diagonal().mean()
    return torch.linalg.solve(gram / damping + torch.eye(len(gram), device=gram.device).double(), advantages.double())


def reference(work: PeerWork, module: nn.Module, updates: Iterable[Update]) -> dict[Update, Gradients]:
    """What each update leaves after both microbatches, from sequence gradients by plain autograd, one at a time."""
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    found: dict[Update, Gradients] = {update: {} for update in updates}
    for inputs, advantages in work.microbatches:
        rows = [
            torch.autograd.grad(-work.log_probs(module, inputs[i : i + 1]).sum(), list(parameters.values()))
            for i in range(len(inputs))
        ]
        seq_grads = dict(zip(parameters, map(torch.stack, zip(*rows, strict=True)), strict=True))
        found = {update: update(before, seq_grads, advantages) for update, before in found.items()}
    return found
