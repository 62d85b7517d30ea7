"""The objective of each method, row by row. The policy gradient is the gradient of their sum.

An objective takes the rows' current log-probabilities [*rows] and the experience to which they belong. REINFORCE and
GRPO weigh them by the advantages. PROMA returns the log-probabilities themselves: its backward pass is seeded with ones
and the advantages come in later, layer by layer, after the projection (`proma_bench.Proma`).
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
    """``a log p`` (Williams, 1992)."""
    return experience.per_row(experience.advantages) * log_probs


def grpo(log_probs: Float[Tensor, "*rows"], experience: Experience, config: RunConfig) -> Float[Tensor, "*rows"]:
    """``min(r a, clip(r, 1 - clip, 1 + clip) a)`` with the likelihood ratio ``r = p / p_old`` of each row.

    PPO's clipped objective (Schulman et al., arXiv 1707.06347, eq. 7) with group-relative advantages, no KL term.
    """
    advantages = experience.per_row(experience.advantages)
    ratio = (log_probs - experience.old_log_probs).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - config.clip, 1 + config.clip) * advantages)


def proma(log_probs: Float[Tensor, "*rows"], experience: Experience, config: RunConfig) -> Float[Tensor, "*rows"]:
    """``log p``: the seed of the backward pass, without advantages."""
    return log_probs
