"""Advantages: rewards relative to the rewards of their group."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Advantages = Callable[[Tensor, int], Tensor]
"""``advantages(rewards [B], group_size) -> [B]``; the sequences of a group are adjacent."""


def group_advantages(rewards: Float[Tensor, " B"], group_size: int, epsilon: float = 1e-6) -> Float[Tensor, " B"]:
    """``(r - mean) / (std + epsilon)`` within each group (GRPO: Shao et al., arXiv 2402.03300, section 4.1).

    The standard deviation is that of the population, so that it is defined (and zero) for a group of one. Differences
    are taken first, and in float64: the mean of returns of 1e9 would round away what tells them apart. Rewards that
    differ in their last digit only, as sums in another order do, count as equal.

    Args:
        rewards: one per sequence; the sequences of a group are adjacent.
        group_size: number of sequences per group.
        epsilon: avoids large advantages if the rewards are almost equal.

    Returns:
        One advantage per sequence; zeros for groups whose rewards are all equal.

    Raises:
        ValueError: the number of rewards is not a multiple of ``group_size``.
    """
    if len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards do not make groups of {group_size}")
    groups = rewards.double().reshape(-1, group_size)
    rounding = 2 * torch.finfo(rewards.dtype).eps * groups.abs().amax(dim=1, keepdim=True)
    differences = groups - groups[:, :1]
    varied = (differences.amax(dim=1, keepdim=True) - differences.amin(dim=1, keepdim=True)) > rounding
    centred = differences - differences.mean(dim=1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=1, keepdim=True).sqrt() + epsilon)
    return torch.where(varied, scaled, 0.0).flatten().to(rewards.dtype)
