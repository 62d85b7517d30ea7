"""``nn.Linear``: the weight's sequence gradients are outer products of output gradients and inputs."""

from __future__ import annotations

from torch import Tensor, nn

from proma_bench.backward.factors import Dense, OuterProducts, RaggedProducts, SequenceGrads, compute_dtype
from proma_bench.backward.layout import Layout
from proma_bench.backward.registry import register_rule


@register_rule(nn.Linear, trusted=True)
def linear(
    module: nn.Linear, inputs: tuple[Tensor, ...], grad_output: Tensor, layout: Layout
) -> dict[str, SequenceGrads]:
    """``S_i = G_i' X_i`` [B, out, in] for the weight, the sum of ``G_i`` over its rows [B, out] for the bias."""
    dtype = compute_dtype(module.weight)
    weight, bias = (parameter is not None and parameter.requires_grad for parameter in (module.weight, module.bias))
    grads: dict[str, SequenceGrads] = {}
    if (ragged := layout.ragged(grad_output)) is not None:
        output_grads, ids, bounds = ragged
        if weight:
            grads["weight"] = RaggedProducts(output_grads, inputs[0].flatten(0, -2), ids, bounds, dtype)
        if bias:
            sums = output_grads.new_zeros(layout.sequences, output_grads.shape[1], dtype=dtype)
            grads["bias"] = Dense(sums.index_add_(0, ids, output_grads.to(dtype)))
        return grads
    output_grads = layout.group(grad_output)
    if weight:
        grads["weight"] = OuterProducts(output_grads, layout.group(inputs[0]), dtype)
    if bias:
        grads["bias"] = Dense(output_grads.sum(dim=1, dtype=dtype))
    return grads
