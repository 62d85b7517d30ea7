"""Advantages: what a reward is worth compared with the rewards of its group."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Advantages = Callable[[Tensor, int], Tensor]
"""``advantages(rewards [B], group_size) -> [B]``; a group's sequences are neighbours."""


def group_advantages(rewards: Float[Tensor, " B"], group_size: int, epsilon: float = 1e-6) -> Float[Tensor, " B"]:
    """``(r - mean) / (std + epsilon)`` within each group of neighbours; zeros where a group's rewards are all equal.

    The standard deviation is the population's, so that a group of one is defined (and zero). (GRPO: Shao et al., arXiv
    2402.03300, section 4.1.)

    Raises:
        ValueError: the rewards do not make whole groups.
    """
    if len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards do not make groups of {group_size}")
    groups = rewards.reshape(-1, group_size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    varied = (groups != groups[:, :1]).any(dim=1, keepdim=True)  # rounding in the mean must not be magnified
    scaled = centred / (groups.std(dim=1, correction=0, keepdim=True) + epsilon)
    return torch.where(varied, scaled, 0.0).flatten()
