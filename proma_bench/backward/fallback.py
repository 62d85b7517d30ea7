"""Sequence gradients by autograd, one backward pass for each sequence: right for whatever can be differentiated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from proma_bench.backward.direct import suspended_hooks
from proma_bench.backward.graph import Boundary
from proma_bench.backward.layout import Layout
from proma_bench.backward.plan import Request
from proma_bench.backward.verification import weighted, weighted_seeds


def one_by_one(
    request: Request, layout: Layout, parameters: Sequence[Tensor], edges: Sequence[Boundary]
) -> dict[Tensor, Float[Tensor, "B *W"]]:
    """The gradients of the log-probs of each sequence, for each parameter.

    Args:
        request: the backward pass, which is not run.
        layout: which row of the loss belongs to which sequence.
        parameters: whose gradients are wanted.
        edges: where the loss takes its terms from.
    """
    found: list[list[Tensor]] = []
    with suspended_hooks(parameters):
        for vector in torch.eye(layout.sequences, dtype=torch.float64):
            seeds = weighted_seeds(request.roots, request.seeds, layout, vector)
            with weighted(edges, layout, vector):
                gradients = torch.autograd.grad(
                    request.roots, parameters, seeds, retain_graph=True, allow_unused=True, materialize_grads=True
                )
            found.append([gradient.detach() for gradient in gradients])
    return dict(zip(parameters, map(torch.stack, zip(*found, strict=True)), strict=True))
