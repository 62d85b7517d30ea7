"""The rules for normalisation layers."""

from __future__ import annotations

import pytest
import torch
from layer_rules import LAYOUTS, assert_rule_equals_autograd
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from proma_bench.backward.layers import layer_rule
from proma_bench.backward.layers.norm import layer_norm, rms_norm, transformers_rms_norm
from proma_bench.backward.registry import LayerRule


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("rule", "module"),
    [
        (layer_norm, nn.LayerNorm(6)),
        (layer_norm, nn.LayerNorm(6, bias=False)),
        (layer_norm, nn.LayerNorm((2, 6), eps=0.1)),
        (rms_norm, nn.RMSNorm(6, eps=0.1)),
    ],
    ids=["layer", "layer without bias", "layer of two axes", "rms"],
)
def test_equals_autograd(rule: object, module: nn.Module, layout: str) -> None:
    assert_rule_equals_autograd(rule, module.double(), torch.randn, tuple(module.normalized_shape), layout)


@pytest.mark.parametrize("kind", [Qwen3RMSNorm, GemmaRMSNorm])
def test_rms_norms_of_transformers_have_their_own_rule(kind: type[nn.Module]) -> None:
    """Of Gemma, too, which keeps its gains as ``1 + weight``. They compute in float32, whatever comes in."""
    module = kind(6)
    rule = layer_rule(module)
    assert isinstance(rule, LayerRule) and rule.function is transformers_rms_norm
    assert_rule_equals_autograd(rule.function, module, torch.randn, (6,), "padded", tolerance=1e-5)


class MadeUpRMSNorm(nn.Module):
    """Named as one, whatever its weight looks like."""

    def __init__(self, *shape: int, eps: float | None = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(shape)), eps


def test_what_only_resembles_an_rms_norm_has_no_rule() -> None:
    for module in (nn.GroupNorm(2, 6), nn.BatchNorm1d(6), MadeUpRMSNorm(2, 6), MadeUpRMSNorm(6, eps=None)):
        assert layer_rule(module) is None
    assert layer_rule(MadeUpRMSNorm(6)) is not None
