"""The rungs of the ladder. A rung is a policy, a sampler and a score; everything else is shared."""

from __future__ import annotations

import copy
import pkgutil
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from proma_bench.config import RunConfig
from proma_bench.experience import Experience

Generators = Mapping[str, torch.Generator]
"""A rung draws contexts from ``contexts`` (so that methods with one seed see the same) and actions from ``actions``."""


class Policy(nn.Module):
    """A module that gives the distribution of the next action in every row."""

    def distribution(self, observations: Tensor) -> Distribution:
        """The distributions for observations alone, where a row needs no more."""
        raise NotImplementedError

    def on(self, experience: Experience) -> Distribution:
        """The distributions in the rows of some experience; their ``log_prob`` takes its ``actions``."""
        return self.distribution(experience.observations)

    def sequence_ids(self, experience: Experience) -> Tensor | None:
        """The sequence of every row of the activations; None where their first axis is the sequence."""
        return experience.sequence_ids

    def frozen(self) -> Policy:
        """A copy that stays as it is, for measurement."""
        return copy.deepcopy(self).requires_grad_(False)


@runtime_checkable
class Tier(Protocol):
    """What a rung provides. It is constructed from its config alone."""

    def policy(self, generator: torch.Generator) -> Policy:
        """A fresh policy; the same generator state gives the same weights."""

    def sample(self, policy: Policy, generators: Generators) -> Experience:
        """One batch: groups of ``config.group_size`` neighbouring sequences, advantages included."""

    def evaluate(self, policy: Policy) -> dict[str, float | None]:
        """``accuracy`` (greedy) and ``accuracy_sampled`` on validation data that training never sees."""


_HOMES = {
    "bandit": "proma_bench.tiers.bandit:Bandit",
    "gym": "proma_bench.tiers.gym:Gym",
    "llm": "proma_bench.tiers.llm:LLM",
    "transformer": "proma_bench.tiers.transformer:Transformer",
}


def make_tier(config: RunConfig) -> Tier:
    """The rung that the config belongs to. Imports that rung and no other."""
    return pkgutil.resolve_name(_HOMES[config.tier])(config)
