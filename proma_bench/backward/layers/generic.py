"""Any module whose rows are independent: gradients row by row through ``torch.func``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from proma_bench.backward.checks import trainable, without_hooks
from proma_bench.backward.factors import Dense, SequenceGrads, compute_dtype
from proma_bench.backward.layout import Layout


def generic(
    module: nn.Module, inputs: tuple[Any, ...], grad_output: Tensor, layout: Layout
) -> dict[str, SequenceGrads]:
    """One gradient per row of the leading axes, summed over the rows of each sequence.

    Costs a forward and a backward pass of the module and the memory of one parameter gradient per row.
    """
    plain, parameters = without_hooks(module), trainable(module)
    axes = layout.row_axes
    mapped = [isinstance(value, Tensor) and value.shape[:axes] == grad_output.shape[:axes] for value in inputs]

    def row_objective(parameters: dict[str, Tensor], row_inputs: tuple[Any, ...], row_grad: Tensor) -> Tensor:
        batch_of_one = (
            value.reshape([1] * axes + list(value.shape)) if is_mapped else value
            for value, is_mapped in zip(row_inputs, mapped, strict=True)
        )
        output = functional_call(plain, parameters, tuple(batch_of_one))
        result: Tensor = (output.reshape(row_grad.shape) * row_grad).sum()
        return result

    row_inputs = tuple(v.flatten(0, axes - 1) if m else v for v, m in zip(inputs, mapped, strict=True))
    in_dims = (None, tuple(0 if m else None for m in mapped), 0)
    per_row = vmap(grad(row_objective), in_dims=in_dims)(parameters, row_inputs, grad_output.flatten(0, axes - 1))
    return {name: _sum_rows(per_row[name], parameters[name], grad_output.shape[:axes], layout) for name in parameters}


def _sum_rows(per_row: Tensor, parameter: Tensor, leading: torch.Size, layout: Layout) -> Dense:
    rows = per_row.to(compute_dtype(parameter)).reshape(*leading, *parameter.shape)
    return Dense(layout.group(rows, feature_axes=parameter.ndim).sum(dim=1))
