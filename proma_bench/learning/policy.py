"""A policy, as everything else sees it."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from proma_bench.learning.experience import Experience

Generators = Mapping[str, torch.Generator]
"""A tier draws initial states (prompts, images, reset seeds) from ``initial_states``, so that methods with one seed see
the same ones, and actions from ``actions``."""


class Policy(nn.Module):
    """A module that gives the distribution of the next action in every row."""

    def distribution(self, observations: Tensor) -> Distribution:
        """The distributions for observations alone, where a row needs no more."""
        raise NotImplementedError(f"{type(self).__name__} defines neither distribution nor on")

    def on(self, experience: Experience) -> Distribution:
        """The distributions in the rows of some experience; their ``log_prob`` takes its ``actions``."""
        return self.distribution(experience.observations)

    def sequence_ids(self, experience: Experience) -> Tensor | None:
        """The sequence of every row of the activations; None where their first axis is the sequence."""
        return experience.sequence_ids

    def frozen(self) -> Policy:
        """A copy that stays as it is, for measurement."""
        return copy.deepcopy(self).requires_grad_(False)
