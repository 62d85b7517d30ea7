"""The objective of each method, per row. The policy gradient is the gradient of their sum.

An objective takes the current log-probabilities of the rows [*rows], the experience that contains the rows, and the
settings. REINFORCE and GRPO weight the log-probabilities or ratios by the advantages. PROMA returns the
log-probabilities themselves: its backward pass starts with ones, and the advantages enter layer by layer, after the
projection (see `proma_bench.Proma`).
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
    without a KL term.

    Args:
        log_probs: the rows' current log-probabilities.
        experience: the sequences, with advantages and the old log-probabilities.
        config: the settings; only ``clip`` is used.

    Returns:
        The objective per row.
    """
    advantages = experience.per_row(experience.advantages)
    ratio = (log_probs - experience.old_log_probs).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - config.clip, 1 + config.clip) * advantages)


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
