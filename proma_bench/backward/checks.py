"""What is verified while a backward pass runs: a rule's sequence gradients against autograd's gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from proma_bench.backward.factors import SequenceGrads, compute_dtype

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 5e-2}


def check_rule(
    module: nn.Module,
    inputs: tuple[Any, ...],
    grad_output: Tensor,
    seq_grads: dict[str, SequenceGrads],
    sequences: int,
) -> str | None:
    """Compare the sum of the sequence gradients with autograd's gradient. Returns what is wrong, or None.

    This catches a module whose rows are not independent and a rule that is wrong. It waits for the device, so the
    engine does it once per module.
    """
    parameters = {name: value.requires_grad_() for name, value in trainable(module).items()}
    if set(seq_grads) != set(parameters):
        return f"its rule gives gradients for {sorted(seq_grads)}, its trainable parameters are {sorted(parameters)}"
    with torch.enable_grad():
        output = functional_call(without_hooks(module), parameters, inputs)
    kinds = {output.dtype, grad_output.dtype, *(value.dtype for value in inputs if isinstance(value, Tensor))}
    tolerance = max(_TOLERANCE.get(kind, 0.0) for kind in kinds)
    expected = torch.autograd.grad(output, list(parameters.values()), grad_output.to(output.dtype))
    for (name, parameter), gradient in zip(parameters.items(), expected, strict=True):
        total = torch.empty(gradient.shape or (1,), dtype=compute_dtype(parameter), device=gradient.device)
        seq_grads[name].weighted_sum(total, total.new_ones(sequences), 0, add=False)
        error, size = (total.reshape(gradient.shape) - gradient).norm(), gradient.norm()
        if error > tolerance * size:
            return (
                f"the sequence gradients of its parameter {name!r} do not add up to autograd's gradient "
                f"(relative error {float(error / size):.1e}); its rows are not independent, or its rule is wrong"
            )
    return None


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """The module's trainable parameters by name, detached."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def without_hooks(module: nn.Module) -> nn.Module:
    """The module with its class's forward and none of its hooks: what a rule recomputes must not be seen by anyone."""
    plain = object.__new__(type(module))  # copy.copy would construct one that fully_shard has made a class of its own
    plain.__dict__.update(module.__dict__)
    plain.__dict__.pop("forward", None)
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        plain.__dict__[hooks] = {}
    return plain
