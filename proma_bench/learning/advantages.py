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
    centred, largest = _centred(rewards, group_size)
    rounding = 2 * torch.finfo(rewards.dtype).eps * largest
    varied = (centred.amax(dim=1, keepdim=True) - centred.amin(dim=1, keepdim=True)) > rounding
    scaled = centred / (centred.square().mean(dim=1, keepdim=True).sqrt() + epsilon)
    return torch.where(varied, scaled, 0.0).flatten().to(rewards.dtype)


def centred_advantages(rewards: Float[Tensor, " B"], group_size: int) -> Float[Tensor, " B"]:
    """``r - mean`` within each group, without a division (Dr. GRPO: Liu et al., arXiv 2503.20783).

    Args:
        rewards: one per sequence; the sequences of a group are adjacent.
        group_size: number of sequences per group.

    Returns:
        One advantage per sequence, in the unit of the rewards.

    Raises:
        ValueError: the number of rewards is not a multiple of ``group_size``.
    """
    return _centred(rewards, group_size)[0].flatten().to(rewards.dtype)


def leave_one_out_advantages(rewards: Float[Tensor, " B"], group_size: int) -> Float[Tensor, " B"]:
    """The reward minus the mean of the *other* rewards of its group (RLOO: Ahmadian et al., arXiv 2402.14740, eq. 7).

    Args:
        rewards: one per sequence; the sequences of a group are adjacent.
        group_size: number of sequences per group.

    Returns:
        One advantage per sequence, in the unit of the rewards; a group of one has no others, and gets zero.

    Raises:
        ValueError: the number of rewards is not a multiple of ``group_size``.
    """
    scale = group_size / max(1, group_size - 1)
    return (scale * _centred(rewards, group_size)[0]).flatten().to(rewards.dtype)


def _centred(
    rewards: Float[Tensor, " B"], group_size: int
) -> tuple[Float[Tensor, "groups size"], Float[Tensor, "groups 1"]]:
    """Rewards minus the mean of their group, and the largest reward of the group in size.

    In float64 and from differences, as the mean of large rewards is no number of float32.
    """
    if len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards do not make groups of {group_size}")
    groups = rewards.double().reshape(-1, group_size)
    differences = groups - groups[:, :1]
    return differences - differences.mean(dim=1, keepdim=True), groups.abs().amax(dim=1, keepdim=True)
