"""A control for the span of PROMA's projection: it removes what lies in the span of mixtures of all sequences."""

from __future__ import annotations

import dataclasses
import math
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
    """PROMA with as many mixtures T_j of all sequences of the same backward pass in place of its own, as clamped.

        A  <-  A - rho sigma P_T A + sum_i a_i S_i            rho = min(1, beta ||g|| / ||P_T A||),  g = sum_i a_i S_i

    With N sequences in the pass, ``T_j = sum_n cos(pi (2n + 1) j / 2N) S_n``: an orthogonal change of basis, the
    discrete cosine transform, whose rows j are dealt out to the microbatches as the sequences are. All in all the
    same directions are removed as with PROMA, but from each microbatch those of all. What PROMA gains over this control
    is due to the span of the microbatch's *own* samples. (The span of the next microbatch would be no control: PROMA
    itself removes that, one microbatch later.)

    It needs the Gram matrix of all the sequences of a pass, so it is no function of one microbatch's K, c and a: give
    ``Proma.backward`` several microbatches, with ``microbatch_size``.

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
        mixing = cosine_transform(gram)
        crossed = mixing @ gram  # of the mixtures with the sequences
        mixed = crossed @ mixing.mT
        added, met, changes = torch.zeros_like(overlap), overlap.clone(), []
        for own in parts:  # met = overlap + gram @ added: with the running gradient as it is by now
            mixtures = mixed[:, own, own]
            weights = projection_weights(mixtures, met @ mixing[own].mT, self.projection, tolerance)
            found = gram_norm(mixtures, weights)
            allowed = removable(gram_norm(gram[:, own, own], advantages[own]), self.projection)
            share = self.projection.shrinkage * clamp(found, allowed)
            if before is not None:
                growth = (added * (met + overlap)).sum(dim=1)  # of ||A_0||^2, by sum_k u_k S_k
                square = before.norm.double().square() + growth
                changes.append((share * found, square.clamp_min(0.0).sqrt(), found > allowed))
            removed = share.unsqueeze(1) * weights
            added -= removed @ mixing[own]
            met -= (removed.unsqueeze(1) @ crossed[:, own]).squeeze(1)
            added[:, own] += advantages[own]
            met += advantages[own] @ gram[:, own]
        return Updates(added, None, Changes.of_steps(changes), [{} for _ in parts], None)


def cosine_transform(gram: Float[Tensor, "P N N"]) -> Float[Tensor, "N N"]:
    """The discrete cosine transform of the sequences; its rows are orthogonal."""
    number = torch.arange(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.cos(torch.outer(number, 2 * number + 1) * (math.pi / (2 * len(number))))
