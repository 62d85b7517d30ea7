"""The tiers of the ladder. Each has its own folder, which is found automatically, and no tier imports another.

A folder contains two modules: ``config.py``, with a subclass of `RunConfig`, which must not import torch, and
``tier.py``, with the class that ``implementation`` of this config names. Everything else is shared. A tier outside this
package has the same two parts, see `proma_bench.plugins`.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from proma_bench.learning.config import TIERS, RunConfig

if TYPE_CHECKING:
    import torch

    from proma_bench.learning.experience import Experience
    from proma_bench.learning.policy import Generators, Policy

__all__ = ["TIERS", "Tier", "make_tier"]

for _found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_found.name}.config")


@runtime_checkable
class Tier(Protocol):
    """The interface of tiers. The constructor takes only the config."""

    def policy(self, generator: torch.Generator) -> Policy:
        """Make an initial policy.

        Args:
            generator: the generator that the weights are drawn from. The same state gives the same weights.

        Returns:
            The policy.
        """

    def sample(self, policy: Policy, generators: Generators) -> Experience:
        """Sample one batch.

        Args:
            policy: the policy that acts.
            generators: the random generators by purpose.

        Returns:
            Sequences with their rewards; those of a group of ``config.group_size`` are adjacent.
        """

    def evaluate(self, policy: Policy) -> dict[str, float | None]:
        """Score a policy on validation data, which training never uses.

        Args:
            policy: the policy.

        Returns:
            ``score`` (greedy), ``score_sampled``, and further metrics of the tier by name.
        """


def make_tier(config: RunConfig) -> Tier:
    """Make the tier of a config. No other tier is imported.

    Args:
        config: the settings of a run.

    Returns:
        The tier.
    """
    tier: Tier = pkgutil.resolve_name(config.implementation)(config)
    return tier
