"""MLP policies for Discrete and Box action spaces."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

from proma_bench.learning.finite import require_finite_outputs
from proma_bench.learning.mlp import mlp
from proma_bench.learning.policy import Policy


class ActorPolicy(Policy):
    """A policy that chooses actions. Sampling takes a generator, which torch's distributions do not support."""

    def draw(self, observations: Float[Tensor, "rows features"], generator: torch.Generator) -> Tensor:
        """Sample actions.

        Args:
            observations: encoded observations.
            generator: the random generator.

        Returns:
            One action per row, in the shape that the distribution's ``log_prob`` accepts.

        Raises:
            DivergenceError: the outputs of the policy are not finite.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no draw")

    def greedy(self, observations: Float[Tensor, "rows features"]) -> Tensor:
        """Choose the most likely actions.

        Args:
            observations: encoded observations.

        Returns:
            One action per row.

        Raises:
            DivergenceError: the outputs of the policy are not finite.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no greedy")


class CategoricalPolicy(ActorPolicy):
    """An MLP with two hidden layers, which maps observations to the logits of a Discrete action space."""

    def __init__(self, features: int, actions: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = mlp([features, hidden, hidden, actions], nn.Tanh, generator)

    def distribution(self, observations: Float[Tensor, "rows features"]) -> Categorical:
        return Categorical(logits=self.layers(observations), validate_args=False)

    def draw(self, observations: Float[Tensor, "rows features"], generator: torch.Generator) -> Int[Tensor, " rows"]:
        probs = require_finite_outputs(self.layers(observations)).softmax(dim=1)
        return torch.multinomial(probs, 1, generator=generator).squeeze(1)

    def greedy(self, observations: Float[Tensor, "rows features"]) -> Int[Tensor, " rows"]:
        return require_finite_outputs(self.layers(observations)).argmax(dim=1)


class GaussianPolicy(ActorPolicy):
    """Independent Gaussians: the same MLP computes their means; the standard deviations do not depend on observations.

    Entropy, KL and log-probabilities are those of the Gaussians, before the environment's bounds clip the actions.
    """

    def __init__(self, features: int, actions: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = mlp([features, hidden, hidden, actions], nn.Tanh, generator)
        self.log_std = LogStd(actions)

    def distribution(self, observations: Float[Tensor, "rows features"]) -> Independent:
        mean = self.layers(observations)
        normal = Normal(mean, self.log_std(mean).exp(), validate_args=False)
        return Independent(normal, 1, validate_args=False)

    def draw(
        self, observations: Float[Tensor, "rows features"], generator: torch.Generator
    ) -> Float[Tensor, "rows actions"]:
        mean = self.layers(observations)
        return require_finite_outputs(mean + self.log_std(mean).exp() * torch.randn(mean.shape, generator=generator))

    def greedy(self, observations: Float[Tensor, "rows features"]) -> Float[Tensor, "rows actions"]:
        return require_finite_outputs(self.layers(observations))


class LogStd(nn.Module):
    """One log standard deviation per action, the same in every row."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((actions,), -0.5))  # std 0.6, where the bounds are at -1 and 1

    def forward(self, mean: Float[Tensor, "rows actions"]) -> Float[Tensor, "rows actions"]:
        return self.value.expand_as(mean)
