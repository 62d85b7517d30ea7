"""Virtual microbatches of any update rule: several successive microbatches from one backward pass.

The running gradient is always ``kappa A_0 + sum_k u_k S_k``. So its overlaps with later sequences, and its norm, follow
from what is known of ``A_0`` and the Gram matrix of *all* the sequences, as in `proma_bench.projection.successive`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from proma_bench.projection.gram import gram_norm
from proma_bench.projection.solve import rank_tolerance
from proma_bench.projection.updates import Update, UpdateRule, extras_of


class Before(NamedTuple):
    """What else is known of P tensors before the first microbatch, where the rule or the records need it.

    Attributes:
        norm: of the running gradients.
        memory: what the rule keeps of earlier microbatches, if it keeps anything.
    """

    norm: Float[Tensor, " P"]
    memory: Float[Tensor, "P k"] | None = None


class Changes(NamedTuple):
    """By how much M successive microbatches differ from plain accumulation, for the records.

    Attributes:
        changed: norm of the difference that each step makes.
        norm: norm of what that is relative to: of the running gradient for a rule whose first microbatch is plain, and
            otherwise of what plain accumulation would have given.
        clamped: whether a limit of the rule was active.
    """

    changed: Float[Tensor, "P M"]
    norm: Float[Tensor, "P M"]
    clamped: Bool[Tensor, "P M"]

    @classmethod
    def of_steps(cls, steps: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Changes | None:
        """From those of each microbatch, [P] each; None where there are none."""
        return cls(*(torch.stack(column, dim=1) for column in zip(*steps, strict=True))) if steps else None


class Updates(NamedTuple):
    """What M successive microbatches of an update rule do to the running gradients of P tensors.

    Attributes:
        coefficients: of the N sequences; what all of the steps add is ``sum_i coefficients_i S_i``.
        kept: the factor of all steps on the running gradient before the first one; None is one.
        changes: None where nothing is known of the running gradients but the overlaps.
        observed: what the rule has observed in each of the M microbatches.
        memory: what the rule keeps from now on.
    """

    coefficients: Float[Tensor, "P N"]
    kept: Float[Tensor, " P"] | None
    changes: Changes | None
    observed: list[dict[str, Tensor]]
    memory: Float[Tensor, "P k"] | None


@runtime_checkable
class PassRule(Protocol):
    """A rule that is no function of one microbatch's K, c and a alone: it sees all microbatches of a backward pass."""

    def successive(
        self, gram: Tensor, overlap: Tensor, advantages: Tensor, size: int, before: Before | None
    ) -> Updates:
        """What the steps do; the arguments are those of `successive_updates`."""


def successive_updates(
    gram: Float[Tensor, "P N N"],
    overlap: Float[Tensor, "P N"],
    advantages: Float[Tensor, " N"],
    size: int,
    rule: UpdateRule,
    before: Before | None = None,
) -> Updates:
    """``ceil(N / size)`` steps of any rule in coefficient space, for P tensors at once.

    Args:
        gram: of all N sequences, in order. Sums over the earlier microbatches are taken in its type, everything within
            a microbatch in float64.
        overlap: with the running gradients before the first microbatch.
        advantages: of all N sequences.
        size: sequences per microbatch; the last one may have fewer.
        rule: the rule.
        before: what a rule may ask for besides; also needed for the changes.

    Returns:
        What all of the steps do.
    """
    if isinstance(rule, PassRule):
        return rule.successive(gram, overlap, advantages, size, before)
    asked = extras_of(rule)
    added, advantages = overlap.new_zeros(overlap.shape, dtype=torch.float64), advantages.double()
    kept, is_scaled = added.new_ones(added.shape[0]), False
    square, memory = (None, None) if before is None else (before.norm.double().square(), before.memory)
    changes, observed = [], []
    for start in range(0, overlap.shape[1], size):
        own, earlier = slice(start, start + size), slice(0, start)
        block = _semidefinite(gram[:, own, own])
        met = kept.unsqueeze(1) * overlap[:, own].double()
        met = met + (gram[:, own, earlier] @ added[:, earlier, None].to(gram.dtype)).squeeze(-1).double()
        plain = advantages[own].expand_as(met)
        known = {"running_norm": None if square is None else square.sqrt(), "memory": memory}
        result = rule(block, met, plain, **{name: known[name] for name in asked})
        update = result if isinstance(result, Update) else Update(result)
        if square is not None:
            changes.append(_change(block, met, plain, update, square, rule.plain_first))
            square = _next_square(block, met, update, square)
        if isinstance(update.kept, Tensor) or update.kept != 1:
            is_scaled, kept = True, kept * update.kept
            added[:, earlier] *= update.kept.unsqueeze(1) if isinstance(update.kept, Tensor) else update.kept
        added[:, own], memory = update.coefficients, update.memory
        observed.append(update.observed or {})
    return Updates(added, kept if is_scaled else None, Changes.of_steps(changes), observed, memory)


def _semidefinite(gram: Float[Tensor, "P B B"]) -> Float[Tensor, "P B B"]:
    """In float64, with a diagonal that is larger by the rank tolerance of a narrower type.

    Rounding to float32 makes eigenvalues negative where gradients depend on each other. To a rule they would be facts.
    """
    wide = gram.double()
    if gram.dtype != wide.dtype:
        wide.diagonal(dim1=-2, dim2=-1).mul_(1 + rank_tolerance(gram.shape[-1], gram.dtype))
    return wide


def _change(
    gram: Tensor, overlap: Tensor, advantages: Tensor, update: Update, square: Tensor, plain_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Norm of ``(kept - 1) A + sum_i (u_i - a_i) S_i``, norm of what it is relative to, and whether it was limited."""
    change = _next_square(gram, overlap, Update(update.coefficients - advantages, update.kept - 1.0), square)
    whole = square if plain_first else _next_square(gram, overlap, Update(advantages), square)
    limited = update.clamped
    clamped = limited if isinstance(limited, Tensor) else torch.full_like(square, limited, dtype=torch.bool)
    return change.sqrt(), whole.sqrt(), clamped


def _next_square(gram: Tensor, overlap: Tensor, update: Update, square: Tensor) -> Tensor:
    """``||kept A + sum_i u_i S_i||^2`` from ``||A||^2``."""
    cross = 2 * update.kept * (update.coefficients * overlap).sum(dim=-1)
    result: Tensor = update.kept**2 * square + cross + gram_norm(gram, update.coefficients).square()
    return result.clamp_min(0.0)
