"""PCGrad: gradients that conflict are projected on each other's complement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from proma_bench.projection.updates import register_update_rule


@register_update_rule
@dataclass(frozen=True)
class PCGrad:
    """Gradient surgery (Yu et al., arXiv 2001.06782, algorithm 1) with the microbatch's sequences as tasks.

    The gradient of task i is ``g_i = a_i S_i``. For each i, starting from ``v_i = g_i``, and for each other j in order:

        if <v_i, g_j> < 0:    v_i <- v_i - <v_i, g_j> / ||g_j||^2 g_j

    The step adds ``sum_i v_i``. All v_i meet the other tasks in the order of the sequences, where the paper draws an
    order for each; so the result is the same every time, and depends on that order. The projections are along the
    original g_j, as in the paper. The running gradient is no task.
    """

    name: ClassVar[str] = "pcgrad"
    plain_first: ClassVar[bool] = False

    def __call__(
        self,
        gram: Float[Tensor, "*batch B B"],
        overlap: Float[Tensor, "*batch B"],
        advantages: Float[Tensor, "*batch B"],
    ) -> Float[Tensor, "*batch B"]:
        """All v_i at once, as rows of coefficients of the S_j; the overlaps do not matter."""
        rows = torch.diag_embed(advantages)
        for j in range(gram.shape[-1]):
            along = (rows @ gram[..., j, None]).squeeze(-1)  # <v_i, S_j> of each i
            conflicts = along * advantages[..., j, None] < 0
            conflicts[..., j] = False
            conflicts &= gram[..., j, j, None] > 0
            square = torch.where(gram[..., j, j] > 0, gram[..., j, j], 1.0)
            rows[..., j] -= torch.where(conflicts, along / square.unsqueeze(-1), 0.0)
        return rows.sum(dim=-2)
