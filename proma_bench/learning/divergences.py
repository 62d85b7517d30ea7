"""Entropy of a policy and KL divergence between policies, computed from their full action distributions.

All are means over the rows of an experience, in nats. They are exact for distributions with a closed form.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, kl_divergence

from proma_bench.learning.experience import Experience


def entropy(policy: Distribution, experience: Experience) -> float:
    """The mean entropy of the policy in the visited states.

    Args:
        policy: its distributions in the rows of the experience.
        experience: the sequences.

    Returns:
        The mean over the rows.
    """
    return experience.mean(policy.entropy())


def kl(first: Distribution, second: Distribution, experience: Experience) -> float:
    """The mean ``KL(first || second)`` in the visited states; never negative, except for rounding errors.

    Args:
        first: the distributions of one policy in the rows of the experience.
        second: those of the other policy.
        experience: the sequences.

    Returns:
        The mean over the rows.
    """
    return experience.mean(divergence(first, second))


def divergence(first: Distribution, second: Distribution) -> Tensor:
    """``KL(first || second)`` per row.

    Categorical distributions are compared by their logits: torch's function returns infinity if a float32 probability
    rounds to 0.

    Args:
        first: the distributions of one policy.
        second: those of the other policy.

    Returns:
        The divergence in every row.
    """
    if isinstance(first, Categorical) and isinstance(second, Categorical):
        terms = first.probs * (first.logits - second.logits)
        return torch.where(first.probs > 0, terms, 0.0).sum(dim=-1)
    return kl_divergence(first, second)
