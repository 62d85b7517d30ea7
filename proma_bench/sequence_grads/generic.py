"""Any module whose rows are independent: gradients row by row through ``torch.func``. And the check of every rule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from proma_bench.sequence_grads.factors import Dense, SequenceGrads
from proma_bench.sequence_grads.layout import Layout
from proma_bench.sequence_grads.registry import compute_dtype

_CHECK_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 5e-2}


def generic(
    module: nn.Module, inputs: tuple[Any, ...], grad_output: Tensor, layout: Layout
) -> dict[str, SequenceGrads]:
    """One gradient a row of the leading axes, summed over the rows of each sequence.

    Costs a forward and a backward pass of the module and the memory of one parameter gradient a row.
    """
    plain, parameters = _without_hooks(module), _trainable(module)
    axes = layout.row_axes
    mapped = [isinstance(value, Tensor) and value.shape[:axes] == grad_output.shape[:axes] for value in inputs]

    def row_objective(parameters: dict[str, Tensor], row_inputs: tuple[Any, ...], row_grad: Tensor) -> Tensor:
        batch_of_one = (
            value.reshape([1] * axes + list(value.shape)) if is_mapped else value
            for value, is_mapped in zip(row_inputs, mapped, strict=True)
        )
        output = functional_call(plain, parameters, tuple(batch_of_one))
        return (output.reshape(row_grad.shape) * row_grad).sum()

    row_inputs = tuple(v.flatten(0, axes - 1) if m else v for v, m in zip(inputs, mapped, strict=True))
    in_dims = (None, tuple(0 if m else None for m in mapped), 0)
    per_row = vmap(grad(row_objective), in_dims=in_dims)(parameters, row_inputs, grad_output.flatten(0, axes - 1))
    return {name: _sum_rows(per_row[name], parameters[name], grad_output.shape[:axes], layout) for name in parameters}


def _sum_rows(per_row: Tensor, parameter: Tensor, leading: torch.Size, layout: Layout) -> Dense:
    rows = per_row.to(compute_dtype(parameter)).reshape(*leading, *parameter.shape)
    return Dense(layout.group(rows, feature_axes=parameter.ndim).sum(dim=1))


def check_rule(
    module: nn.Module,
    inputs: tuple[Any, ...],
    grad_output: Tensor,
    seq_grads: dict[str, SequenceGrads],
    sequences: int,
) -> str | None:
    """Compare the sum of the sequence gradients with autograd's gradient; what is wrong in words, or None.

    This catches a module whose rows are not independent and a rule that is wrong. It waits for the device, so the
    engine does it once a module.
    """
    parameters = {name: value.requires_grad_() for name, value in _trainable(module).items()}
    if set(seq_grads) != set(parameters):
        return f"its rule gives gradients for {sorted(seq_grads)}, its trainable parameters are {sorted(parameters)}"
    with torch.enable_grad():
        output = functional_call(_without_hooks(module), parameters, inputs)
    kinds = {output.dtype, grad_output.dtype, *(value.dtype for value in inputs if isinstance(value, Tensor))}
    tolerance = max(_CHECK_TOLERANCE.get(kind, 0.0) for kind in kinds)
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


def _trainable(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def _without_hooks(module: nn.Module) -> nn.Module:
    """The module with its class's forward and none of its hooks: what a rule recomputes must not be seen by anyone."""
    plain = object.__new__(type(module))  # copy.copy would construct one that fully_shard has made a class of its own
    plain.__dict__.update(module.__dict__)
    plain.__dict__.pop("forward", None)
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        plain.__dict__[hooks] = {}
    return plain
