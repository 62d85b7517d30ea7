"""What is verified of a rule while it runs: it computes what was computed, and adds up to autograd's gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from proma_bench.backward.factors import SequenceGrads, compute_dtype

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 5e-2}


def structure(module: nn.Module, inputs: tuple[Any, ...]) -> object:
    """What a check of a rule holds for: the module's modes and settings, and the form of its arguments."""
    numbers = tuple(item for item in vars(module).items() if isinstance(item[1], bool | int | float | str))
    modes = tuple(child.training for child in module.modules())
    return numbers, modes, tuple(value.ndim if isinstance(value, Tensor) else repr(type(value)) for value in inputs)


def recomputed_gradients(module: nn.Module, inputs: tuple[Any, ...], grad_output: Tensor) -> dict[str, Tensor]:
    """Autograd's gradients of a module's trainable parameters, by name, from its forward pass once more."""
    parameters = {name: value.requires_grad_() for name, value in trainable(module).items()}
    with torch.enable_grad():
        output = functional_call(without_hooks(module), parameters, inputs)
    found = torch.autograd.grad(
        output, list(parameters.values()), grad_output.to(output.dtype), allow_unused=True, materialize_grads=True
    )
    return dict(zip(parameters, found, strict=True))


def check_recomputed(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> str | None:
    """What is wrong if the module, run again, does not give the output that it gave; None if it does."""
    with torch.no_grad():
        again = functional_call(without_hooks(module), trainable(module), inputs)
    error, size = (again - output).double().norm(), output.double().norm()
    if not bool(error <= tolerance_of(output) * size):
        return (
            f"run again for its rule, it does not give the output that it gave (relative error "
            f"{float(error / size):.1e}): a mode, a buffer or an attribute has changed since, or it is random"
        )
    return None


def check_rule(
    module: nn.Module,
    inputs: tuple[Any, ...],
    grad_output: Tensor,
    seq_grads: dict[str, SequenceGrads],
    sequences: int,
) -> str | None:
    """Compare the sum of the sequence gradients with autograd's gradient.

    This catches a module whose rows are not independent and a rule that is wrong. It waits for the device, so the
    engine does it once for each `structure` of a module.

    Args:
        module: the layer.
        inputs: its arguments.
        grad_output: the gradient of its output.
        seq_grads: what its rule returned.
        sequences: B.

    Returns:
        What is wrong, or None.
    """
    expected = recomputed_gradients(module, inputs, grad_output)
    if set(seq_grads) != set(expected):
        return f"its rule gives gradients for {sorted(seq_grads)}, its trainable parameters are {sorted(expected)}"
    tolerance = max(tolerance_of(value) for value in (grad_output, *inputs) if isinstance(value, Tensor))
    for name, gradient in expected.items():
        parameter = module.get_parameter(name)
        total = torch.empty(gradient.shape or (1,), dtype=compute_dtype(parameter), device=gradient.device)
        seq_grads[name].weighted_sum(total, total.new_ones(sequences), 0, add=False)
        error, size = (total.reshape(gradient.shape) - gradient).norm(), gradient.norm()
        if not bool(error <= tolerance * size):
            return (
                f"the sequence gradients of its parameter {name!r} do not add up to autograd's gradient "
                f"(relative error {float(error / size):.1e}); its rows are not independent, or its rule is wrong"
            )
    return None


def tolerance_of(values: Tensor) -> float:
    """How far a result in this type may be off by rounding, relative to its size."""
    return _TOLERANCE.get(values.dtype, 0.0)


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
