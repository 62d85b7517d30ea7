"""A control for the direction of PROMA's projection: as much is removed, but along the running gradient itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from proma_bench.projection.config import ProjectionConfig, require_gram_method
from proma_bench.projection.gram import removal
from proma_bench.projection.updates import Update, register_update_rule


@register_update_rule
@dataclass(frozen=True)
class Shrink:
    """The running gradient becomes shorter by the norm that PROMA would have removed, and keeps its direction.

        A  <-  (1 - r / ||A||) A + sum_i a_i S_i            r = ||rho sigma P_S A||, the norm that PROMA removes

    What PROMA gains over this control is due to *which* component it removes, not to how much. What the iterative
    method removes may be a little longer than A itself; nothing of A is kept then.

    Attributes:
        projection: the settings of PROMA that decide r.

    Raises:
        ValueError: the Gram matrix cannot serve the projection's method.
    """

    name: ClassVar[str] = "shrink"
    plain_first: ClassVar[bool] = True

    projection: ProjectionConfig = dataclasses.field(default_factory=ProjectionConfig)

    def __post_init__(self) -> None:
        require_gram_method(self.projection)

    def __call__(
        self,
        gram: Float[Tensor, "*batch B B"],
        overlap: Float[Tensor, "*batch B"],
        advantages: Float[Tensor, "*batch B"],
        *,
        running_norm: Float[Tensor, "*batch"],
    ) -> Update:
        """The plain coefficients, and the factor on the running gradient."""
        removed = removal(gram, overlap, advantages, self.projection)
        share = removed.norm / torch.where(running_norm > 0, running_norm, torch.inf)
        return Update(advantages, kept=(1 - share).clamp_min(0.0), clamped=removed.clamped)
