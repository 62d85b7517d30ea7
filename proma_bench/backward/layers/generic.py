"""Any module whose rows are independent: gradients row by row through ``torch.func``."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from proma_bench.backward.checks import recomputed_gradients, tolerance_of, trainable, without_hooks
from proma_bench.backward.factors import Dense, SequenceGrads, compute_dtype
from proma_bench.backward.layout import Layout


def generic(
    module: nn.Module, inputs: tuple[Any, ...], grad_output: Tensor, layout: Layout
) -> dict[str, SequenceGrads]:
    """One gradient per row of the leading axes, summed over the rows of each sequence.

    Costs a forward and a backward pass of the module and the memory of one parameter gradient per row. Which arguments
    have rows is decided by what gives the module's output again: one whose first axis has the length of the batch by
    chance does not.

    Args:
        module: the layer.
        inputs: its arguments.
        grad_output: the gradient of its output.
        layout: which row belongs to which sequence.

    Raises:
        ValueError: row by row, the module does not give the output that it gives for all rows.
    """
    if layout.sequences == 1:
        gradients = recomputed_gradients(module, inputs, grad_output)
        return {name: Dense(gradient.unsqueeze(0)) for name, gradient in gradients.items()}
    plain, parameters, axes = without_hooks(module), trainable(module), layout.row_axes
    with torch.no_grad():
        output = functional_call(plain, parameters, inputs)
    leading = grad_output.shape[:axes]
    candidates = [n for n, value in enumerate(inputs) if isinstance(value, Tensor) and value.shape[:axes] == leading]
    for left_out in (set(chosen) for size in range(len(candidates)) for chosen in combinations(candidates, size)):
        mapped = [n in candidates and n not in left_out for n in range(len(inputs))]
        per_row, again = _row_by_row(plain, parameters, inputs, mapped, grad_output, axes)
        if _same(again, output):
            return {name: _sum_rows(per_row[name], parameters[name], leading, layout) for name in parameters}
    raise ValueError("row by row it does not give the output that it gives for the whole batch")


def _row_by_row(
    module: nn.Module,
    parameters: dict[str, Tensor],
    inputs: tuple[Any, ...],
    mapped: list[bool],
    grad_output: Tensor,
    axes: int,
) -> tuple[dict[str, Tensor], Tensor]:
    """The gradients [rows, *W] of the rows one by one, and the module's output for each [rows, ...]."""

    def row_objective(
        parameters: dict[str, Tensor], row_inputs: tuple[Any, ...], row_grad: Tensor
    ) -> tuple[Tensor, Tensor]:
        batch_of_one = (
            value.reshape([1] * axes + list(value.shape)) if is_mapped else value
            for value, is_mapped in zip(row_inputs, mapped, strict=True)
        )
        output = functional_call(module, parameters, tuple(batch_of_one)).reshape(row_grad.shape)
        return (output * row_grad).sum(), output

    row_inputs = tuple(v.flatten(0, axes - 1) if m else v for v, m in zip(inputs, mapped, strict=True))
    in_dims = (None, tuple(0 if m else None for m in mapped), 0)
    per_row = vmap(grad(row_objective, has_aux=True), in_dims=in_dims)
    result: tuple[dict[str, Tensor], Tensor] = per_row(parameters, row_inputs, grad_output.flatten(0, axes - 1))
    return result


def _same(rows: Tensor, output: Tensor) -> bool:
    error = (rows.reshape(output.shape) - output).double().norm()
    return bool(error <= tolerance_of(output) * output.double().norm())


def _sum_rows(per_row: Tensor, parameter: Tensor, leading: torch.Size, layout: Layout) -> Dense:
    rows = per_row.to(compute_dtype(parameter)).reshape(*leading, *parameter.shape)
    return Dense(layout.group(rows, feature_axes=parameter.ndim).sum(dim=1))
