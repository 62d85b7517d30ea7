"""The rule for linear layers: factors whose sums are autograd's gradients, sequence by sequence."""

from __future__ import annotations

import pytest
import torch
from layer_rules import LAYOUTS, assert_rule_equals_autograd
from torch import nn

from proma_bench.backward.layers.linear import linear


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("trainable", [("weight", "bias"), ("weight",), ("bias",)], ids="-".join)
def test_equals_autograd(layout: str, trainable: tuple[str, ...]) -> None:
    module = nn.Linear(5, 7).double()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in trainable)
    assert_rule_equals_autograd(linear, module, torch.randn, (5,), layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_a_bias(layout: str) -> None:
    assert_rule_equals_autograd(linear, nn.Linear(5, 3, bias=False).double(), torch.randn, (5,), layout)
