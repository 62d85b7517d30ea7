"""A control for the span of PROMA's projection: it removes what lies in the span of other sequences."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from proma_bench.projection.config import ProjectionConfig, require_gram_method
from proma_bench.projection.gram import clamp, gram_norm, removable
from proma_bench.projection.recursion import Before, Changes, Updates
from proma_bench.projection.solve import projection_weights, rank_tolerance
from proma_bench.projection.updates import RuleError, register_update_rule


@register_update_rule
@dataclass(frozen=True)
class Elsewhere:
    """PROMA with the span of another microbatch T of the same backward pass, under the same clamp.

        A  <-  A - rho sigma P_T A + sum_i a_i S_i            rho = min(1, beta ||g|| / ||P_T A||),  g = sum_i a_i S_i

    T is the next microbatch, and for the last one the first. What PROMA gains over this control is due to the span of
    the microbatch's *own* samples. It needs the Gram matrix of all the sequences of a pass, so it is no function of
    one microbatch's K, c and a: give ``Proma.backward`` several microbatches, with ``microbatch_size``.

    Attributes:
        projection: the settings of the projection.

    Raises:
        ValueError: the Gram matrix cannot serve the projection's method.
    """

    name: ClassVar[str] = "elsewhere"
    plain_first: ClassVar[bool] = False  # by itself: a single microbatch is an error, not plain accumulation

    projection: ProjectionConfig = dataclasses.field(default_factory=ProjectionConfig)

    def __post_init__(self) -> None:
        require_gram_method(self.projection)

    def __call__(self, gram: Tensor, overlap: Tensor, advantages: Tensor) -> NoReturn:
        """There is no other microbatch.

        Raises:
            RuleError: always.
        """
        raise RuleError(
            "the rule elsewhere needs another microbatch in the same backward pass: give Proma.backward several, with "
            "microbatch_size; on the ladder, lower microbatch_size"
        )

    def successive(
        self,
        gram: Float[Tensor, "P N N"],
        overlap: Float[Tensor, "P N"],
        advantages: Float[Tensor, " N"],
        size: int,
        before: Before | None,
    ) -> Updates:
        """All microbatches of a pass; see `proma_bench.projection.recursion.PassRule`."""
        tolerance = rank_tolerance(size, gram.dtype)
        gram, overlap, advantages = gram.double(), overlap.double(), advantages.double()
        parts = [slice(start, start + size) for start in range(0, overlap.shape[1], size)]
        if len(parts) == 1:
            self(gram, overlap, advantages)
        added, changes = torch.zeros_like(overlap), []
        for own, other in zip(parts, [*parts[1:], parts[0]], strict=True):
            met = overlap + (gram @ added.unsqueeze(-1)).squeeze(-1)  # with the running gradient as it is by now
            weights = projection_weights(gram[:, other, other], met[:, other], self.projection, tolerance)
            found = gram_norm(gram[:, other, other], weights)
            allowed = removable(gram_norm(gram[:, own, own], advantages[own]), self.projection)
            share = self.projection.shrinkage * clamp(found, allowed)
            if before is not None:
                growth = (added * (met + overlap)).sum(dim=1)  # of ||A_0||^2, by sum_k u_k S_k
                square = before.norm.double().square() + growth
                changes.append((share * found, square.clamp_min(0.0).sqrt(), found > allowed))
            added[:, other] -= share.unsqueeze(1) * weights
            added[:, own] += advantages[own]
        return Updates(added, None, Changes.of_steps(changes), [{} for _ in parts], None)
