"""What each method maximises, row by row. The policy gradient is the gradient of the sum of these.

An objective takes the rows' current log-probabilities [*rows] and the experience they belong to. REINFORCE and GRPO
weigh them by the advantages. PROMA returns the log-probabilities themselves: its backward pass is seeded with ones and
the advantages come in later, layer by layer, after the projection (:class:`proma_bench.Proma`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from proma_bench.experience import Experience

Objective = Callable[[Tensor, Experience, float], Tensor]


def group_advantages(rewards: Float[Tensor, " B"], group_size: int, epsilon: float = 1e-6) -> Float[Tensor, " B"]:
    """``(r - mean) / (std + epsilon)`` within each group of neighbours; zeros where a group's rewards are all equal.

    The standard deviation is the population's, so that a group of one is defined (and zero). Raises ValueError when
    the rewards do not make whole groups. (GRPO: Shao et al., arXiv 2402.03300, section 4.1.)
    """
    if len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards do not make groups of {group_size}")
    groups = rewards.reshape(-1, group_size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    varied = (groups != groups[:, :1]).any(dim=1, keepdim=True)  # rounding in the mean must not be blown up
    scaled = centred / (groups.std(dim=1, correction=0, keepdim=True) + epsilon)
    return torch.where(varied, scaled, 0.0).flatten()


def reinforce(log_probs: Float[Tensor, "*rows"], experience: Experience, clip: float) -> Float[Tensor, "*rows"]:
    """``a log p`` (Williams, 1992)."""
    return experience.per_row(experience.advantages) * log_probs


def grpo(log_probs: Float[Tensor, "*rows"], experience: Experience, clip: float) -> Float[Tensor, "*rows"]:
    """``min(r a, clip(r, 1 - clip, 1 + clip) a)`` with the likelihood ratio ``r = p / p_old`` of each row.

    PPO's clipped objective (Schulman et al., arXiv 1707.06347, eq. 7) with group-relative advantages, no KL term.
    """
    advantages = experience.per_row(experience.advantages)
    ratio = (log_probs - experience.old_log_probs).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def proma(log_probs: Float[Tensor, "*rows"], experience: Experience, clip: float) -> Float[Tensor, "*rows"]:
    """``log p``: the seed of the backward pass, without advantages."""
    return log_probs


OBJECTIVES: dict[str, Objective] = {"reinforce": reinforce, "grpo": grpo, "proma": proma}
