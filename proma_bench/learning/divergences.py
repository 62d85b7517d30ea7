"""How far a policy moved and how much it still explores, over its full action distribution.

All are means over the rows of some experience, in nats. For distributions in closed form they are exact.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, kl_divergence

from proma_bench.learning.experience import Experience


def entropy(policy: Distribution, experience: Experience) -> float:
    """The mean entropy of the policy at the visited states."""
    return experience.mean(policy.entropy())


def kl(first: Distribution, second: Distribution, experience: Experience) -> float:
    """The mean ``KL(first || second)`` at the visited states; never negative (rounding aside)."""
    return experience.mean(_divergence(first, second))


def _divergence(first: Distribution, second: Distribution) -> Tensor:
    """For categorical policies from the logits: torch's own is infinite where a probability of float32 rounds to 0."""
    if isinstance(first, Categorical) and isinstance(second, Categorical):
        terms = first.probs * (first.logits - second.logits)
        return torch.where(first.probs > 0, terms, 0.0).sum(dim=-1)
    return kl_divergence(first, second)
