"""The tiers of the ladder, one folder each, which are found automatically: a policy, a sampler and a score.

A folder has ``config.py``, with a subclass of `RunConfig` that names the tier and imports no torch, and ``tier.py``,
with the class that the config's ``implementation`` names. Everything else is shared. No tier imports another. A tier
from outside of this package has the same two parts; see `proma_bench.plugins`.
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
    """What a tier provides. It is constructed from its config alone."""

    def policy(self, generator: torch.Generator) -> Policy:
        """A fresh policy; the same generator state gives the same weights."""

    def sample(self, policy: Policy, generators: Generators) -> Experience:
        """One batch: groups of ``config.group_size`` neighbouring sequences with their rewards."""

    def evaluate(self, policy: Policy) -> dict[str, float | None]:
        """``score`` (greedy) and ``score_sampled`` on validation data that training never sees."""


def make_tier(config: RunConfig) -> Tier:
    """The tier that the config belongs to. Imports that tier and no other."""
    tier: Tier = pkgutil.resolve_name(config.implementation)(config)
    return tier
