"""``nn.Linear``: the weight's sequence gradients are outer products of output gradients and inputs."""

from __future__ import annotations

from torch import Tensor, nn

from proma_bench.sequence_grads.factors import Dense, OuterProducts, SequenceGrads
from proma_bench.sequence_grads.layout import Layout
from proma_bench.sequence_grads.registry import compute_dtype, register_rule


@register_rule(nn.Linear, trusted=True)
def linear(
    module: nn.Linear, inputs: tuple[Tensor, ...], grad_output: Tensor, layout: Layout
) -> dict[str, SequenceGrads]:
    """``S_i = G_i' X_i`` [B, out, in] for the weight, the sum of ``G_i`` over its rows [B, out] for the bias."""
    dtype = compute_dtype(module.weight)
    output_grads = layout.group(grad_output)
    grads: dict[str, SequenceGrads] = {}
    if module.weight.requires_grad:
        grads["weight"] = OuterProducts(output_grads, layout.group(inputs[0]), dtype)
    if module.bias is not None and module.bias.requires_grad:
        grads["bias"] = Dense(output_grads.sum(dim=1, dtype=dtype))
    return grads
