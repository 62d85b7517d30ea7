"""The interface of policies."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from proma_bench.learning.experience import Experience

Generators = Mapping[str, torch.Generator]
"""Random generators by purpose. A tier draws initial states (prompts, images, reset seeds) from ``initial_states`` and
actions from ``actions``, so that different methods with the same seed get the same initial states."""


class Policy(nn.Module):
    """A module that returns the distribution of the action in every row. A subclass defines `distribution` or `on`."""

    keeps_distributions: ClassVar[bool] = True
    """Whether, in training, what `on` returns is the whole distribution, and not log-probabilities alone."""

    def distribution(self, observations: Tensor) -> Distribution:
        """The distributions for given observations, for policies that need only the observation of a row.

        Args:
            observations: the first axis is the row.

        Returns:
            One distribution per row.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither distribution nor on")

    def on(self, experience: Experience) -> Distribution:
        """The distributions in the rows of an experience.

        Args:
            experience: the sequences.

        Returns:
            Distributions whose ``log_prob`` accepts ``experience.actions``.
        """
        return self.distribution(experience.observations)

    def sequence_ids(self, experience: Experience) -> Tensor | None:
        """The sequence that each row of the activations belongs to.

        Args:
            experience: the sequences.

        Returns:
            The index of the sequence per row; None if the first axis of the activations is the sequence.
        """
        return experience.sequence_ids

    def frozen(self) -> Policy:
        """A copy that is not trained, for measurements."""
        return copy.deepcopy(self).requires_grad_(False)
