"""Checks that the numbers of an optimizer step are finite, made before anything of the step is recorded or saved.

An infinite metric ends a run even if the weights are finite, as an entropy of minus infinity or an infinite KL
divergence does. JSON has no such number, and a step without a value would count in no comparison, although it is the
worst of all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from proma_bench.errors import DivergenceError

LARGEST_REWARD = 1e16
"""Sums of squares of larger numbers, which advantages need, may be beyond float32."""

ADVICE = "a smaller learning_rate or more warmup_steps may help"


def require_finite_outputs(outputs: Tensor) -> Tensor:
    """Require that the outputs of a policy are finite, from which actions are about to be chosen.

    Args:
        outputs: logits, probabilities or means.

    Returns:
        The outputs.

    Raises:
        DivergenceError: they are not finite.
    """
    if not is_finite([outputs]):
        raise DivergenceError(f"the outputs of the policy are not finite; {ADVICE}")
    return outputs


def require_usable_rewards(rewards: Tensor) -> None:
    """Require that advantages can be computed from rewards.

    Args:
        rewards: one per sequence.

    Raises:
        DivergenceError: one is not finite, or too large.
    """
    wrong = (~(rewards.abs() <= LARGEST_REWARD)).nonzero().flatten().tolist()
    if wrong:
        raise DivergenceError(
            f"the reward of sequence {wrong[0]} of the batch is {rewards[wrong[0]].item():g}; rewards must be finite "
            f"numbers up to {LARGEST_REWARD:g}"
        )


def require_finite_advantages(advantages: Tensor) -> None:
    """Require that advantages are finite.

    Args:
        advantages: one per sequence, computed from rewards that are finite.

    Raises:
        DivergenceError: one is not.
    """
    if not is_finite([advantages]):
        raise DivergenceError("the rewards are finite, but the advantages that the method computes from them are not")


def require_finite_objectives(are_finite: Sequence[Tensor]) -> None:
    """Require that the objectives of a step are finite.

    Args:
        are_finite: whether those of each microbatch are; as tensors, so that a device is waited for once per step.

    Raises:
        DivergenceError: one is not.
    """
    if are_finite and not torch.stack(list(are_finite)).all():
        raise DivergenceError(f"log-probabilities are no longer finite; {ADVICE}")


def require_finite_gradients(policy: nn.Module) -> None:
    """Require that all gradients are finite.

    Args:
        policy: the policy, before the optimizer's step.

    Raises:
        DivergenceError: one is not; the message names its parameter.
    """
    gradients = {name: weight.grad for name, weight in policy.named_parameters() if weight.grad is not None}
    if not is_finite(gradients.values()):
        raise DivergenceError(f"the gradient of {_first(gradients)} is not finite; {ADVICE}")


def require_finite_weights(policy: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Require that weights and the optimizer's moments are finite.

    Where Adam's second moment is infinite, weights stay finite, but never change again.

    Args:
        policy: the policy, after the optimizer's step.
        optimizer: its optimizer.

    Raises:
        DivergenceError: one is not finite; the message names its parameter.
    """
    weights = dict(policy.named_parameters())
    moments = {
        f"the optimizer's {moment} of {name}": value
        for name, weight in weights.items()
        for moment, value in optimizer.state.get(weight, {}).items()
        if isinstance(value, Tensor) and value.is_floating_point() and moment != "step"
    }
    if is_finite([*weights.values(), *moments.values()]):
        return
    wrong = _first({f"the weight {name}": weight for name, weight in weights.items()} | moments)
    raise DivergenceError(f"{wrong} is not finite after the step; {ADVICE}")


def require_finite_metrics(metrics: Mapping[str, Any]) -> None:
    """Require that all metrics are finite.

    Args:
        metrics: values by name: numbers, objects of numbers by layer, or None.

    Raises:
        DivergenceError: one is not finite; the message names it.
    """
    for name, value in metrics.items():
        for part, number in value.items() if isinstance(value, Mapping) else [("", value)]:
            if isinstance(number, float) and not math.isfinite(number):
                shown = f"{name} of {part}" if part else name
                raise DivergenceError(f"the metric {shown} is {number}, not a finite number; {ADVICE}")


def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all entries are finite.

    Args:
        tensors: floating-point tensors.

    Returns:
        The answer. The largest size of an entry is compared, which cannot overflow as a sum of squares does.
    """
    sizes = [tensor for tensor in tensors if tensor.numel()]
    return bool(get_total_norm(sizes, math.inf).isfinite())


def _first(tensors: Mapping[str, Tensor]) -> str:
    return next(name for name, tensor in tensors.items() if not is_finite([tensor]))
