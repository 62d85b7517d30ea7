"""One optimizer step over microbatches; all methods and tiers share it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from proma_bench.backward.records import averages
from proma_bench.errors import DivergenceError, RunError
from proma_bench.learning.divergences import divergence
from proma_bench.learning.experience import Experience
from proma_bench.learning.finite import (
    ADVICE,
    require_finite_gradients,
    require_finite_objectives,
    require_finite_weights,
)
from proma_bench.learning.methods import method_named
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.methods import PROJECTION_METHODS

if TYPE_CHECKING:
    from proma_bench.backward.proma import Proma
    from proma_bench.learning.config import RunConfig
    from proma_bench.learning.policy import Policy
    from proma_bench.projection.updates import UpdateRule


def optimizer_step(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    microbatches: Sequence[Experience],
    config: RunConfig,
    proma: Proma | None = None,
    sampler: Policy | None = None,
) -> dict[str, Any]:
    """Accumulate the gradient of the step's objective over the microbatches, and apply it.

    The weight of a row (``config.loss_aggregation``) does not depend on its microbatch. If it is faster, PROMA
    processes several microbatches in one backward pass, with the same result.

    Args:
        policy: the policy that is trained.
        optimizer: the optimizer of its parameters.
        microbatches: the sequences of the step, with advantages.
        config: the settings of the run.
        proma: projects the running gradient before each microbatch is added; None adds up the gradients.
        sampler: the policy that has sampled, for methods that penalise the exact divergence from it.

    Returns:
        ``grad_norm`` and the statistics of the projection (None without one).

    Raises:
        DivergenceError: an objective, a gradient, or a weight after the step is not finite.
        RunError: there is not enough memory, or PROMA refuses the policy. The weights are unchanged then.
    """
    size, sequences = len(microbatches[0]), sum(map(len, microbatches))
    rows = Experience.total_rows(microbatches)
    if rows == 0:
        return {"grad_norm": 0.0, **_projection_stats(proma)}  # no answer has a token, so there is nothing to learn
    are_finite: list[Tensor] = []
    method = method_named(config.method)
    acts_anyway = method.divergence is not None or (proma is not None and _acts_without_advantages(proma.rule))
    for experience, advantages in _with_effect(list(_passes(microbatches, rows / sequences, proma)), acts_anyway):
        try:
            objective = _objective(policy, experience, config, rows, sequences, sampler)
            are_finite.append(objective.isfinite().all())
            if proma is None:
                (-objective.sum()).backward()
            else:
                with _projected(proma, advantages, policy.sequence_ids(experience), size, are_finite):
                    (-objective.sum()).backward()
        except torch.OutOfMemoryError:
            raise RunError(_out_of_memory(len(experience), config)) from None
    require_finite_objectives(are_finite)
    _fill_empty_gradients(policy)
    result = {"grad_norm": _gradient_norm(policy), **_projection_stats(proma)}
    if (step := method.step_function) is None:
        _apply(optimizer)
    else:
        step(policy, microbatches, lambda: _value(policy, microbatches, config, rows, sequences), config)
    require_finite_weights(policy, optimizer)
    optimizer.zero_grad()
    return result


def _fill_empty_gradients(policy: Policy) -> None:
    """Where every pass was left out, the gradient is zero: the optimizer's momentum moves the weights on all the same.

    Without a gradient the optimizer would stand still, which a trainer that multiplies its loss by zero does not.
    """
    weights = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    if all(parameter.grad is None for parameter in weights):
        for parameter in weights:
            parameter.grad = torch.zeros_like(parameter)


def _gradient_norm(policy: Policy) -> float:
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    norm = float(get_total_norm(gradients))
    if not math.isfinite(norm):
        require_finite_gradients(policy)  # else only their squares are beyond float32
        norm = float(get_total_norm([gradient.double() for gradient in gradients]))
    return norm


def _apply(optimizer: torch.optim.Optimizer) -> None:
    try:
        optimizer.step()
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise DivergenceError(f"the step is beyond float32 ({error}); {ADVICE}") from error


@contextmanager
def _projected(
    proma: Proma, advantages: Tensor, ids: Tensor | None, size: int, are_finite: Sequence[Tensor]
) -> Iterator[None]:
    """A microbatch of PROMA, whose errors are those of a run. What is not finite may look like another fault."""
    try:
        with proma.microbatch(advantages, ids, microbatch_size=size):
            yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # gradients that cannot be decomposed
        raise DivergenceError(f"PROMA cannot project the gradients ({error}); {ADVICE}") from error
    except RuntimeError:  # parts with NaN do not add up, for one
        require_finite_objectives(are_finite)
        raise
    except ValueError as error:  # a policy that mixes the sequences of a batch, for one
        require_finite_objectives(are_finite)
        raise RunError(f"PROMA cannot take this step: {error}") from error


def _objective(
    policy: Policy, experience: Experience, config: RunConfig, rows: int, sequences: int, sampler: Policy | None = None
) -> Tensor:
    """The weighted objective of each sequence, for a step with this number of rows and sequences."""
    method, policy_now = method_named(config.method), policy.on(experience)
    objective = method.objective_function(policy_now.log_prob(experience.actions), experience, config)
    if method.divergence == "exact":
        assert sampler is not None, f"method {method.name} needs the policy that has sampled"
        with torch.no_grad():
            before = sampler.on(experience)
        objective = objective - config.kl_penalty * divergence(before, policy_now)
    return experience.per_sequence(objective) * _weights(experience, config, rows, sequences)


def _value(policy: Policy, microbatches: Sequence[Experience], config: RunConfig, rows: int, sequences: int) -> float:
    """The objective of the step, for the policy as it is."""
    return sum(float(_objective(policy, part, config, rows, sequences).sum()) for part in microbatches)


def _out_of_memory(sequences: int, config: RunConfig) -> str:
    """The message that says which settings to change.

    The microbatch is not made smaller automatically: that would be a different algorithm.
    """
    settings = ["turn on gradient_checkpointing"] if getattr(config, "gradient_checkpointing", True) is False else []
    settings += ["lower max_new_tokens"] if hasattr(config, "max_new_tokens") else []
    settings += ["lower microbatch_size (which changes what PROMA does)"]
    return f"out of memory in a training pass of {sequences} sequences; {', or '.join(settings)}"


def _weights(experience: Experience, config: RunConfig, rows: int, sequences: int) -> Tensor | float:
    """The weight of the rows of each sequence.

    token-mean: all rows have the same weight (the paper's run). sequence-mean: all sequences have the same weight,
    regardless of their length (GRPO as published). sum: the rows of a sequence are summed, which gives the unbiased
    gradient of the mean reward.

    Args:
        experience: the sequences.
        config: the settings of the run.
        rows: number of rows in the whole step.
        sequences: number of sequences in the whole step.
    """
    aggregation = method_named(config.method).loss_aggregation or config.loss_aggregation
    if aggregation == "token-mean":
        return 1 / rows
    if aggregation == "sum":
        return 1 / sequences
    lengths = experience.per_sequence(torch.ones_like(experience.old_log_probs))
    return 1 / (lengths.clamp_min(1.0) * sequences)


def _passes(microbatches: Sequence[Experience], rows: float, proma: Proma | None) -> Iterator[Experience]:
    """The experience of each backward pass: one microbatch, or several joined for PROMA on a small policy.

    Args:
        microbatches: those of one optimizer step.
        rows: mean number of rows per sequence.
        proma: the projection, if there is one.
    """
    if proma is None:
        yield from microbatches
        return
    joined = proma.microbatches_per_pass(len(microbatches[0]), rows, len(microbatches))
    for start in range(0, len(microbatches), joined):
        yield Experience.join(microbatches[start : start + joined])


def _with_effect(passes: Sequence[Experience], acts_anyway: bool) -> Iterator[tuple[Experience, Tensor]]:
    """Leave out what does not change the gradient: all advantages are zero, and nothing else acts.

    With advantages of zero, the clamp (``max_removed``) does not allow a projection to remove anything.

    Args:
        passes: the experience of each backward pass.
        acts_anyway: whether the method acts without advantages as well.

    Yields:
        Those with an effect, with their advantages on the CPU, where looking at them waits for no device.
    """
    everything = torch.cat([experience.advantages for experience in passes]).cpu()
    for experience, advantages in zip(passes, everything.split([len(part) for part in passes]), strict=True):
        if acts_anyway or advantages.any():
            yield experience, advantages


def _acts_without_advantages(rule: UpdateRule) -> bool:
    """Whether the running gradient may change although all advantages are zero; of a projection this is known."""
    if not isinstance(rule, ProjectionConfig):
        return True
    return rule.max_removed is None and PROJECTION_METHODS[rule.method].takes != "factors"


def _projection_stats(proma: Proma | None) -> dict[str, Any]:
    """The statistics of the projection since the last call; None without a projection."""
    if proma is None:
        return {"removed_ratio": None, "removed_by_layer": None, "clamped": None}
    records = proma.stats()
    proma.clear_stats()
    return averages(records)
