"""One optimizer step over microbatches: the same for every method and tier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from proma_bench.backward.records import averages
from proma_bench.errors import RunError
from proma_bench.learning.experience import Experience
from proma_bench.learning.methods import METHODS
from proma_bench.projection.methods import PROJECTION_METHODS

if TYPE_CHECKING:
    from proma_bench.backward.proma import Proma
    from proma_bench.learning.config import RunConfig
    from proma_bench.learning.policy import Policy


def optimizer_step(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    microbatches: Sequence[Experience],
    config: RunConfig,
    proma: Proma | None = None,
) -> dict[str, Any]:
    """Accumulate the gradient of the step's objective, microbatch after microbatch, and apply it.

    What a row weighs (``config.loss_aggregation``) does not depend on the microbatch that it is in. With ``proma`` the
    running gradient is projected before each microbatch is added; without, gradients add up plainly. Where that is
    faster, PROMA takes several microbatches in one backward pass, with the same result.

    Returns:
        ``grad_norm``, and what the projection did (None without one).

    Raises:
        RunError: an objective is not finite, or the memory does not suffice. The weights have not changed then.
    """
    objective_function = METHODS[config.method].objective_function
    size, sequences = len(microbatches[0]), sum(map(len, microbatches))
    rows = sum(microbatch.rows for microbatch in microbatches)
    if rows == 0:
        return {"grad_norm": 0.0, **_projection_stats(proma)}  # no token was answered: nothing to learn
    for experience in _passes(microbatches, rows / sequences, proma):
        if _adds_nothing(experience, config, proma):
            continue
        try:
            log_probs = policy.on(experience).log_prob(experience.actions)
            objective = experience.per_sequence(objective_function(log_probs, experience, config))
            objective = objective * _weights(experience, config, rows, sequences)
            if not objective.isfinite().all():
                raise RunError("log-probabilities are no longer finite; a lower learning rate may help")
            if proma is None:
                (-objective.sum()).backward()
            else:
                ids = policy.sequence_ids(experience)
                proma.backward(objective, experience.advantages, ids, microbatch_size=size)
        except torch.OutOfMemoryError:
            raise RunError(_out_of_memory(len(experience), config)) from None
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    result = {"grad_norm": float(get_total_norm(gradients)), **_projection_stats(proma)}
    optimizer.step()
    optimizer.zero_grad()
    return result


def _out_of_memory(sequences: int, config: RunConfig) -> str:
    """What to change; a smaller microbatch, chosen in silence, would be another algorithm."""
    settings = ["turn on gradient_checkpointing"] if getattr(config, "gradient_checkpointing", True) is False else []
    settings += ["lower max_new_tokens"] if hasattr(config, "max_new_tokens") else []
    settings += ["lower microbatch_size (which changes what PROMA does)"]
    return f"out of memory in a training pass of {sequences} sequences; {', or '.join(settings)}"


def _weights(experience: Experience, config: RunConfig, rows: int, sequences: int) -> Tensor | float:
    """What every row of a sequence weighs, for a step of so many rows and sequences.

    token-mean: all rows alike (the paper's run). sequence-mean: all sequences alike, whatever their length (GRPO as
    published). sum: the log-prob of the sequence itself, the unbiased gradient of the mean reward.
    """
    if config.loss_aggregation == "token-mean":
        return 1 / rows
    if config.loss_aggregation == "sum":
        return 1 / sequences
    lengths = experience.per_sequence(torch.ones_like(experience.old_log_probs))
    return 1 / (lengths.clamp_min(1.0) * sequences)


def _passes(microbatches: Sequence[Experience], rows: float, proma: Proma | None) -> Iterator[Experience]:
    """The parts that go through one backward pass each: single microbatches, or several for PROMA on a small policy.

    Args:
        microbatches: of one optimizer step.
        rows: the mean number per sequence.
        proma: what projects, if anything does.
    """
    if proma is None:
        yield from microbatches
        return
    joined = proma.microbatches_per_pass(len(microbatches[0]), rows, len(microbatches))
    for start in range(0, len(microbatches), joined):
        yield Experience.join(microbatches[start : start + joined])


def _adds_nothing(experience: Experience, config: RunConfig, proma: Proma | None) -> bool:
    """Whether nothing changes: all advantages are zero, and nothing is projected, or the clamp allows no removal."""
    removes = (
        proma is not None and config.max_removed is None and PROJECTION_METHODS[config.projection].takes != "factors"
    )
    return not experience.advantages.any() and not removes


def _projection_stats(proma: Proma | None) -> dict[str, Any]:
    """What the projection did since the last call; None without one."""
    if proma is None:
        return {"removed_ratio": None, "removed_by_layer": None, "clamped": None}
    records = proma.stats()
    proma.clear_stats()
    return averages(records)
