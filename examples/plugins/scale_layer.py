"""A layer kind: a learned factor per feature. The first backward pass of each layer compares the rule with autograd.

import scale_layer    # before Proma(policy)
"""

import torch
from torch import Tensor, nn

from proma_bench import register_rule
from proma_bench.backward.factors import Dense, SequenceGrads
from proma_bench.backward.layout import Layout


class Scale(nn.Module):
    """``y = factor * x``."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(features))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.factor * inputs


@register_rule(Scale)
def scale(module: Scale, inputs: tuple[Tensor, ...], grad_output: Tensor, layout: Layout) -> dict[str, SequenceGrads]:
    """``S_i`` [B, features]: the sum of ``grad * input`` over the rows of sequence ``i``."""
    return {"factor": Dense(layout.group(inputs[0] * grad_output).sum(dim=1))}
