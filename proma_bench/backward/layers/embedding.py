"""``nn.Embedding``: the sequence gradients have entries only in the rows of the tokens that occur."""

from __future__ import annotations

from torch import Tensor, nn

from proma_bench.backward.factors import Scattered, SequenceGrads, compute_dtype
from proma_bench.backward.layout import Layout
from proma_bench.backward.registry import register_rule


@register_rule(nn.Embedding, trusted=True)
def embedding(
    module: nn.Embedding, inputs: tuple[Tensor, ...], grad_output: Tensor, layout: Layout
) -> dict[str, SequenceGrads]:
    """Row ``r`` of ``S_i`` [B, vocabulary, d] is the sum of the output gradients where the token is ``r``."""
    tokens = layout.group(inputs[0], feature_axes=0)
    output_grads = layout.group(grad_output)
    if module.padding_idx is not None:
        output_grads = output_grads.masked_fill((tokens == module.padding_idx).unsqueeze(-1), 0)
    return {"weight": Scattered(tokens, output_grads, compute_dtype(module.weight))}
