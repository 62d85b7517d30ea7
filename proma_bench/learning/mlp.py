"""The network of the small policies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn


def mlp(widths: Sequence[int], activation: type[nn.Module], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with an activation between them.

    Args:
        widths: number of features of the input, of each hidden layer, and of the output.
        activation: the class of the activation.
        generator: the generator that the initial weights are drawn from.

    Returns:
        The network.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [_linear(inputs, outputs, generator), activation()]
    return nn.Sequential(*layers[:-1])


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with torch's default initialisation, drawn from the generator, not the global one."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = inputs**-0.5
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer
