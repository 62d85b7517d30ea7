"""A layer rule on its own against autograd, one sequence at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from proma_bench.backward.layout import Layout

LAYOUTS = ("padded", "flattened", "packed, unsorted")
SEQUENCES, LENGTH = 4, 3


def assert_rule_equals_autograd(
    rule: Any,
    module: nn.Module,
    draw: Callable[..., Tensor],
    features: tuple[int, ...],
    layout: str,
    tolerance: float = 1e-10,
) -> None:
    """Sequence gradients written out, in parts and as a weighted sum, for every trainable parameter.

    Args:
        rule: the rule.
        module: the layer.
        draw: makes the input, as torch.randn does.
        features: the shape of one row of the input.
        layout: one of LAYOUTS.
        tolerance: largest relative error.
    """
    generator, dtype = torch.Generator().manual_seed(0), next(module.parameters()).dtype
    ids = torch.arange(SEQUENCES).repeat_interleave(LENGTH)
    leading = {"padded": (SEQUENCES, LENGTH), "flattened": (len(ids),), "packed, unsorted": (1, len(ids))}[layout]
    if layout == "packed, unsorted":
        ids = ids[torch.randperm(len(ids), generator=generator)]
    inputs = draw(*leading, *features, generator=generator, dtype=dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
    output = module(inputs)
    grad_output = torch.randn(output.shape, generator=generator, dtype=dtype)
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    rows = Layout(SEQUENCES) if layout == "padded" else Layout(SEQUENCES, ids.reshape(leading))
    found = rule(module, (inputs,), grad_output, rows)
    assert found.keys() == parameters.keys()
    own = (ids.unsqueeze(0) == torch.arange(SEQUENCES).unsqueeze(1)).reshape(SEQUENCES, *leading)
    weights = torch.randn(SEQUENCES, generator=generator, dtype=dtype)
    for name, parameter in parameters.items():
        wanted = torch.stack(
            [
                torch.autograd.grad(
                    output,
                    parameter,
                    grad_output * mask[(...,) + (None,) * (output.ndim - mask.ndim)],
                    retain_graph=True,
                )[0]
                for mask in own
            ]
        )
        size = wanted.norm()
        written = torch.zeros_like(wanted)
        for start in range(0, parameter.shape[0], 2):
            found[name].write_rows(written[:, start : start + 2], start, add=False)
        total = torch.zeros_like(parameter)
        found[name].weighted_sum(total, weights, 0, add=False)
        assert (written - wanted).norm() <= tolerance * size, name
        assert (total - torch.tensordot(weights, wanted, dims=1)).norm() <= tolerance * size, name
