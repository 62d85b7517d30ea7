"""Normalisation layers with an elementwise gain: ``nn.LayerNorm``, ``nn.RMSNorm`` and those of transformers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from proma_bench.backward.factors import Dense, SequenceGrads, compute_dtype
from proma_bench.backward.layout import Layout
from proma_bench.backward.registry import register_matching, register_rule


@register_rule(nn.LayerNorm, trusted=True)
def layer_norm(
    module: nn.LayerNorm, inputs: tuple[Tensor, ...], grad_output: Tensor, layout: Layout
) -> dict[str, SequenceGrads]:
    """Sums over a sequence's rows of ``grad * normalised input`` for the gain, of ``grad`` for the offset."""
    dtype = compute_dtype(module.weight)
    normalised = F.layer_norm(inputs[0].to(dtype), module.normalized_shape, eps=module.eps)
    grads: dict[str, SequenceGrads] = {"weight": _gain(grad_output.to(dtype) * normalised, module.weight, layout)}
    if module.bias is not None:
        grads["bias"] = _gain(grad_output.to(dtype), module.bias, layout)
    return grads


@register_rule(nn.RMSNorm, trusted=True)
def rms_norm(
    module: nn.RMSNorm, inputs: tuple[Tensor, ...], grad_output: Tensor, layout: Layout
) -> dict[str, SequenceGrads]:
    """Sums over a sequence's rows of ``grad * normalised input``."""
    dtype = compute_dtype(module.weight)
    normalised = F.rms_norm(inputs[0].to(dtype), module.normalized_shape, eps=module.eps)
    return {"weight": _gain(grad_output.to(dtype) * normalised, module.weight, layout)}


def is_transformers_rms_norm(module: nn.Module) -> bool:
    """Whether this looks like an RMSNorm of transformers: every model family there defines a class of its own.

    Gains stored as ``1 + weight`` (Gemma) have the same gradient. The engine checks the rule against autograd once.
    """
    parameters = dict(module.named_parameters())
    return (
        type(module).__name__.endswith("RMSNorm")
        and list(parameters) == ["weight"]
        and parameters["weight"].ndim == 1
        and _epsilon(module) is not None
    )


@register_matching(is_transformers_rms_norm)
def transformers_rms_norm(
    module: nn.Module, inputs: tuple[Tensor, ...], grad_output: Tensor, layout: Layout
) -> dict[str, SequenceGrads]:
    """As `rms_norm`; the classes differ only in the name of the epsilon."""
    weight = module.get_parameter("weight")
    dtype = compute_dtype(weight)
    normalised = F.rms_norm(inputs[0].to(dtype), weight.shape, eps=_epsilon(module))
    return {"weight": _gain(grad_output.to(dtype) * normalised, weight, layout)}


def _epsilon(module: nn.Module) -> float | None:
    for name in ("variance_epsilon", "eps"):
        if isinstance(epsilon := getattr(module, name, None), float):
            return epsilon
    return None


def _gain(products: Tensor, parameter: Tensor, layout: Layout) -> Dense:
    return Dense(layout.group(products, feature_axes=parameter.ndim).sum(dim=1))
