"""One optimizer step over microbatches: the same for every method and rung."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import get_total_norm

from proma_bench.errors import RunError
from proma_bench.experience import Experience
from proma_bench.objectives import OBJECTIVES

if TYPE_CHECKING:
    from proma_bench.backward import Proma
    from proma_bench.config import RunConfig
    from proma_bench.tiers import Policy


def optimizer_step(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    microbatches: Sequence[Experience],
    config: RunConfig,
    proma: Proma | None = None,
) -> dict[str, Any]:
    """Accumulate the gradient of the mean over all rows of the step, microbatch after microbatch, and apply it.

    Every row of the step weighs the same ("token mean"), whichever microbatch it is in. With ``proma`` the running
    gradient is projected before each microbatch is added; without, gradients add up plainly. Where that is faster,
    PROMA takes several microbatches in one backward pass, with the same result.
    Returns ``grad_norm`` and, of PROMA, what the projection did (None otherwise). Raises RunError before the weights
    change when an objective is not finite.
    """
    size, rows = len(microbatches[0]), sum(microbatch.rows for microbatch in microbatches)
    for experience in _passes(microbatches, rows, proma):
        if _adds_nothing(experience, config, proma):
            continue
        log_probs = policy.distribution(experience.observations).log_prob(experience.actions)
        objective = OBJECTIVES[config.method](log_probs, experience, config.clip)
        objective = experience.per_sequence(objective) / rows
        if not objective.isfinite().all():
            raise RunError("log-probabilities are no longer finite; a lower learning rate may help")
        if proma is None:
            (-objective.sum()).backward()
        else:
            proma.backward(objective, experience.advantages, experience.sequence_ids, microbatch_size=size)
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    result = {"grad_norm": float(get_total_norm(gradients)), **_projection_stats(proma)}
    optimizer.step()
    optimizer.zero_grad()
    return result


def _passes(microbatches: Sequence[Experience], rows: int, proma: Proma | None) -> Iterator[Experience]:
    """What goes through one backward pass each: a microbatch, or for PROMA on a small policy several."""
    if proma is None:
        yield from microbatches
        return
    size, sequences = len(microbatches[0]), sum(map(len, microbatches))
    joined = proma.microbatches_per_pass(size, rows / sequences, len(microbatches))
    for start in range(0, len(microbatches), joined):
        yield Experience.join(microbatches[start : start + joined])


def _adds_nothing(experience: Experience, config: RunConfig, proma: Proma | None) -> bool:
    """Advantages all zero give no gradient, and under the clamp allow no removal; without it PROMA still removes."""
    return not experience.advantages.any() and (proma is None or config.max_removed is not None)


def _projection_stats(proma: Proma | None) -> dict[str, Any]:
    """Over tensors and microbatches: the mean share of the running gradient removed, how often the clamp was active.

    ``removed_by_layer`` has the share for each parameter tensor, meaned over microbatches.
    """
    if proma is None:
        return {"removed_ratio": None, "removed_by_layer": None, "clamped": None}
    records = proma.stats()
    proma.clear_stats()
    shares: dict[str, list[float]] = {}
    for record in records:
        shares.setdefault(record.parameter, []).append(record.removed_ratio)
    count = max(1, len(records))  # a step of one microbatch has nothing to project
    return {
        "removed_ratio": sum(record.removed_ratio for record in records) / count,
        "removed_by_layer": {name: sum(values) / len(values) for name, values in sorted(shares.items())},
        "clamped": sum(record.clamped for record in records) / count,
    }
