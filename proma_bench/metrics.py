"""How far a policy moved and how much it still explores, over its full action distribution.

All are means over the rows of some experience, in nats. For distributions in closed form they are exact.
"""

from __future__ import annotations

from torch.distributions import Distribution, kl_divergence

from proma_bench.experience import Experience


def entropy(policy: Distribution, experience: Experience) -> float:
    """The mean entropy of the policy at the visited states."""
    return experience.mean(policy.entropy())


def kl(first: Distribution, second: Distribution, experience: Experience) -> float:
    """The mean ``KL(first || second)`` at the visited states; never negative (rounding aside)."""
    return experience.mean(kl_divergence(first, second))
