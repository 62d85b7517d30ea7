"""Clipping the norm of each sequence's gradient, in each parameter tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from proma_bench.projection.updates import Update, register_update_rule, require_number


@register_update_rule
@dataclass(frozen=True)
class Clip:
    """No sequence gradient counts with a norm above ``C``.

        u_i = a_i min(1, C / ||S_i||)

    It is the clipping of differentially private training (Abadi et al., arXiv 1607.00133, section 3.1), per tensor and
    without noise; the advantage comes after it.

    Attributes:
        max_norm: C. None is the root mean square of the norms in the microbatch, which does not depend on their scale.

    Raises:
        ValueError: the norm is not a finite number above 0.
    """

    name: ClassVar[str] = "clip"
    plain_first: ClassVar[bool] = False

    max_norm: float | None = None

    def __post_init__(self) -> None:
        if self.max_norm is not None:
            require_number("max_norm", self.max_norm, above=0)

    def __call__(
        self,
        gram: Float[Tensor, "*batch B B"],
        overlap: Float[Tensor, "*batch B"],
        advantages: Float[Tensor, "*batch B"],
    ) -> Update:
        """The formula, and whether a norm was above C; the overlaps do not matter."""
        squares = gram.diagonal(dim1=-2, dim2=-1).clamp_min(0.0)
        limit = squares.mean(dim=-1, keepdim=True) if self.max_norm is None else self.max_norm**2
        share = (limit / torch.where(squares > 0, squares, torch.inf)).sqrt()
        share = torch.where(squares > limit, share, 1.0)
        return Update(advantages * share, clamped=(share < 1).any(dim=-1))
