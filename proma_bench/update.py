"""One optimizer step over microbatches: the same for every method and rung."""

from __future__ import annotations

from collections.abc import Sequence
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
    gradient is projected before each microbatch is added; without, gradients add up plainly.
    Returns ``grad_norm`` and, of PROMA, what the projection did (None otherwise). Raises RunError before the weights
    change when an objective is not finite.
    """
    rows = sum(microbatch.rows for microbatch in microbatches)
    for microbatch in microbatches:
        if _adds_nothing(microbatch, config, proma):
            continue
        log_probs = policy.distribution(microbatch.observations).log_prob(microbatch.actions)
        objective = OBJECTIVES[config.method](log_probs, microbatch, config.clip)
        objective = microbatch.per_sequence(objective) / rows
        if not objective.isfinite().all():
            raise RunError("log-probabilities are no longer finite; a lower learning rate may help")
        if proma is None:
            (-objective.sum()).backward()
        else:
            proma.backward(objective, microbatch.advantages, microbatch.sequence_ids)
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    result = {"grad_norm": float(get_total_norm(gradients)), **_projection_stats(proma)}
    optimizer.step()
    optimizer.zero_grad()
    return result


def _adds_nothing(microbatch: Experience, config: RunConfig, proma: Proma | None) -> bool:
    """Advantages all zero give no gradient, and under the clamp allow no removal; without it PROMA still removes."""
    return not microbatch.advantages.any() and (proma is None or config.max_removed is not None)


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
