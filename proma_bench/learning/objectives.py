"""The objective of each method, per row. The policy gradient is the gradient of their sum.

An objective takes the current log-probabilities of the rows [*rows], the experience that contains the rows, and the
settings. Most of them weight the log-probabilities, or the likelihood ratios ``r = p / p_old``, by the advantages; the
old policy is that which has sampled. PROMA returns the log-probabilities themselves: its backward pass starts with
ones, and the advantages enter layer by layer, after the projection (see `proma_bench.Proma`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from proma_bench.learning.config import RunConfig
from proma_bench.learning.experience import Experience

Objective = Callable[[Tensor, Experience, RunConfig], Tensor]
"""``objective(log_probs [*rows], experience, config) -> [*rows]``."""


def reinforce(log_probs: Float[Tensor, "*rows"], experience: Experience, config: RunConfig) -> Float[Tensor, "*rows"]:
    """``a log p``, the advantage times the log-probability (Williams, 1992).

    Args:
        log_probs: the rows' current log-probabilities.
        experience: the sequences, with advantages.
        config: the settings; not used.

    Returns:
        The objective per row.
    """
    return experience.per_row(experience.advantages) * log_probs


def grpo(log_probs: Float[Tensor, "*rows"], experience: Experience, config: RunConfig) -> Float[Tensor, "*rows"]:
    """``min(r a, clip(r, 1 - clip, 1 + clip) a)`` with the likelihood ratio ``r = p / p_old`` of each row.

    This is PPO's clipped objective (Schulman et al., arXiv 1707.06347, eq. 7) with group-relative advantages and
    without a KL term. Dr. GRPO (Liu et al., arXiv 2503.20783) has the same one, with other advantages and weights.
    With ``dual_clip``, a negative advantage counts at most ``dual_clip`` times, however large the ratio is
    (Ye et al., arXiv 1912.09729, eq. 5).

    Args:
        log_probs: the rows' current log-probabilities.
        experience: the sequences, with advantages and the old log-probabilities.
        config: the settings; ``clip`` and ``dual_clip`` are used.

    Returns:
        The objective per row.
    """
    advantages = experience.per_row(experience.advantages)
    clipped = _clipped(_ratio(log_probs, experience), advantages, config.clip, config.clip)
    if config.dual_clip is None:
        return clipped
    return torch.where(advantages < 0, torch.maximum(clipped, config.dual_clip * advantages), clipped)


def dapo(log_probs: Float[Tensor, "*rows"], experience: Experience, config: RunConfig) -> Float[Tensor, "*rows"]:
    """``min(r a, clip(r, 1 - clip, 1 + clip_high) a)``: more room upwards, so that rare actions can become likely.

    It is the *clip-higher* of DAPO (Yu et al., arXiv 2503.14476, eq. 10), whose token-level loss is the default of all
    methods here. Dynamic sampling and overlong shaping, which change what is sampled and rewarded, are not part of it.

    Args:
        log_probs: the rows' current log-probabilities.
        experience: the sequences, with advantages and the old log-probabilities.
        config: the settings; ``clip`` and ``clip_high`` are used.

    Returns:
        The objective per row.
    """
    advantages = experience.per_row(experience.advantages)
    return _clipped(_ratio(log_probs, experience), advantages, config.clip, config.clip_high)


def cispo(log_probs: Float[Tensor, "*rows"], experience: Experience, config: RunConfig) -> Float[Tensor, "*rows"]:
    """``sg(min(r, 1 + clip_high)) a log p``: clipped importance weights, which no gradient passes, on REINFORCE.

    CISPO (MiniMax-M1, arXiv 2506.13585, eq. 4 and 5), without a lower bound, as there. No row loses its gradient.

    Args:
        log_probs: the rows' current log-probabilities.
        experience: the sequences, with advantages and the old log-probabilities.
        config: the settings; only ``clip_high`` is used.

    Returns:
        The objective per row.
    """
    weight = _ratio(log_probs.detach(), experience).clamp_max(1 + config.clip_high)
    return weight * experience.per_row(experience.advantages) * log_probs


def gspo(log_probs: Float[Tensor, "*rows"], experience: Experience, config: RunConfig) -> Float[Tensor, "*rows"]:
    """``min(s a, clip(s, 1 - gspo_low, 1 + gspo_high) a)`` with ``s = (p / p_old)^(1 / length)``, one per sequence.

    GSPO (Zheng et al., arXiv 2507.18071, eq. 5 to 7). All rows of a sequence have its value; the method weights
    sequences equally, so that their mean is it again.

    Args:
        log_probs: the rows' current log-probabilities.
        experience: the sequences, with advantages and the old log-probabilities.
        config: the settings; ``gspo_low`` and ``gspo_high`` are used.

    Returns:
        The objective per row.
    """
    lengths = experience.per_sequence(torch.ones_like(log_probs)).clamp_min(1.0)
    ratio = (experience.per_sequence(log_probs - experience.old_log_probs) / lengths).exp()
    return experience.per_row(_clipped(ratio, experience.advantages, config.gspo_low, config.gspo_high))


def ppo_kl(log_probs: Float[Tensor, "*rows"], experience: Experience, config: RunConfig) -> Float[Tensor, "*rows"]:
    """``r a - kl_penalty k3`` with ``k3 = (r - 1) - log r``, whose mean is the KL divergence from the old policy.

    PPO with a penalty instead of a clip (arXiv 1707.06347, eq. 8), with a fixed coefficient. As the old policy has
    sampled, ``k3`` is an unbiased and never negative estimate of ``KL(old || new)`` (Schulman, 2020).

    Args:
        log_probs: the rows' current log-probabilities.
        experience: the sequences, with advantages and the old log-probabilities.
        config: the settings; only ``kl_penalty`` is used.

    Returns:
        The objective per row.
    """
    ratio = _ratio(log_probs, experience)
    k3 = (ratio - 1) - (log_probs - experience.old_log_probs)
    return ratio * experience.per_row(experience.advantages) - config.kl_penalty * k3


def surrogate(log_probs: Float[Tensor, "*rows"], experience: Experience, config: RunConfig) -> Float[Tensor, "*rows"]:
    """``r a``, the objective of TRPO inside of its trust region (Schulman et al., arXiv 1502.05477, eq. 14).

    Args:
        log_probs: the rows' current log-probabilities.
        experience: the sequences, with advantages and the old log-probabilities.
        config: the settings; not used.

    Returns:
        The objective per row.
    """
    return _ratio(log_probs, experience) * experience.per_row(experience.advantages)


def proma(log_probs: Float[Tensor, "*rows"], experience: Experience, config: RunConfig) -> Float[Tensor, "*rows"]:
    """``log p``: the log-probabilities, from which the backward pass starts, without advantages.

    Args:
        log_probs: the rows' current log-probabilities.
        experience: the sequences; not used.
        config: the settings; not used.

    Returns:
        The log-probabilities as they are.
    """
    return log_probs


def _ratio(log_probs: Float[Tensor, "*rows"], experience: Experience) -> Float[Tensor, "*rows"]:
    return (log_probs - experience.old_log_probs).exp()


def _clipped(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """The lower one of both: the clip only holds back steps that go on, never those that come back."""
    return torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
