"""Plain accumulation that says what there is to see in each Gram matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from proma_bench.projection.updates import Update, register_update_rule


@register_update_rule
@dataclass(frozen=True)
class Observe:
    """``u = a``, REINFORCE; the records say of each tensor and microbatch, with ``g_i = a_i S_i``:

        norms             ||S_i||, one for each sequence
        effective_rank    (tr K)^2 / tr K^2, the participation ratio of the eigenvalues of K: from 1 to B
        conflicts         the share of pairs i < j with <g_i, g_j> < 0
        noise             tr Sigma, the variance of the g_i: (sum_i ||g_i||^2 - B ||g||^2) / (B - 1), g their mean
        signal            |G|^2, the squared norm of what the g_i estimate: ||g||^2 - noise / B

    Noise over signal is the simple gradient noise scale (McCandlish et al., arXiv 1812.06162, section 2.2), in
    sequences. Both are unbiased, and the signal may be negative by chance: average both over microbatches before you
    divide. A microbatch of one sequence has no noise and no pairs; both are zero there.
    """

    name: ClassVar[str] = "observe"
    plain_first: ClassVar[bool] = False

    def __call__(
        self,
        gram: Float[Tensor, "*batch B B"],
        overlap: Float[Tensor, "*batch B"],
        advantages: Float[Tensor, "*batch B"],
    ) -> Update:
        """The advantages as they are, with what was observed."""
        count = gram.shape[-1]
        squares = gram.diagonal(dim1=-2, dim2=-1).clamp_min(0.0)
        of_tasks = gram * advantages.unsqueeze(-1) * advantages.unsqueeze(-2)  # <g_i, g_j>
        mean = of_tasks.sum(dim=(-2, -1)) / count**2
        parts = of_tasks.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        noise = (parts - count * mean).clamp_min(0.0) / max(1, count - 1)
        frobenius = gram.square().sum(dim=(-2, -1))
        observed = {
            "norms": squares.sqrt(),
            "effective_rank": squares.sum(dim=-1).square() / torch.where(frobenius > 0, frobenius, 1.0),
            "conflicts": (of_tasks < 0).triu(1).sum(dim=(-2, -1)) / max(1, count * (count - 1) / 2),
            "noise": noise,
            "signal": mean - noise / count,
        }
        return Update(advantages, observed=observed)
