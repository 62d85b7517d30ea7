"""The second rung: an MLP acts in a Gymnasium environment.

A context is a reset seed, a sequence an episode, its reward the undiscounted return; a row is one step. The episodes of
a group begin from the same reset seed, so that the group's mean is a baseline for just this start. What the seed fixes
besides, and how episodes end, is told in :mod:`proma_bench.tiers.environments`.

The *score* of this rung is a return. In the terms that all rungs share, ``reward`` is the mean return of the sampled
batch, and ``accuracy`` the mean return of the greedy policy (most likely action, mean of the Gaussian) on validation
seeds that training never draws. The two need not go together: in a grid without chance, a policy that reaches its goal
whenever it is sampled may run into a wall for ever when it is greedy. ``accuracy_sampled`` is not measured: that would
be another batch of episodes.
``truncated`` is the share of the validation episodes that the time limit ended.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

from proma_bench.config import GymConfig
from proma_bench.experience import Experience
from proma_bench.objectives import group_advantages
from proma_bench.tiers import Generators, Policy
from proma_bench.tiers.environments import Environments
from proma_bench.tiers.mlp import mlp

TRAINING_SEEDS = 2**31
"""Training draws reset seeds below this number; validation counts from it."""


class ActorPolicy(Policy):
    """A policy that acts: ``draw`` with a generator of its own, which the distributions of torch do not take."""

    def draw(self, observations: Float[Tensor, "rows features"], generator: torch.Generator) -> Tensor:
        """A sampled action for every row, in the shape that the distribution's ``log_prob`` takes."""
        raise NotImplementedError

    def greedy(self, observations: Float[Tensor, "rows features"]) -> Tensor:
        """The most likely action for every row."""
        raise NotImplementedError


class CategoricalPolicy(ActorPolicy):
    """An MLP with two hidden layers, from observations to the logits of a Discrete action space."""

    def __init__(self, features: int, actions: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = mlp([features, hidden, hidden, actions], nn.Tanh, generator)

    def distribution(self, observations: Float[Tensor, "rows features"]) -> Categorical:
        return Categorical(logits=self.layers(observations), validate_args=False)

    def draw(self, observations: Float[Tensor, "rows features"], generator: torch.Generator) -> Int[Tensor, " rows"]:
        probs = self.layers(observations).softmax(dim=1)
        return torch.multinomial(probs, 1, generator=generator).squeeze(1)

    def greedy(self, observations: Float[Tensor, "rows features"]) -> Int[Tensor, " rows"]:
        return self.layers(observations).argmax(dim=1)


class GaussianPolicy(ActorPolicy):
    """The same MLP gives the mean of independent Gaussians; their standard deviations do not depend on its input.

    Entropy, KL and log-probabilities are those of the Gaussian, before the environment's bounds clip what was drawn.
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
        return mean + self.log_std(mean).exp() * torch.randn(mean.shape, generator=generator)

    def greedy(self, observations: Float[Tensor, "rows features"]) -> Float[Tensor, "rows actions"]:
        return self.layers(observations)


class LogStd(nn.Module):
    """One log standard deviation an action, the same in every row; a module of its own, so that a rule covers it."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((actions,), -0.5))  # 0.6 of the way from the middle to the bounds

    def forward(self, mean: Float[Tensor, "rows actions"]) -> Float[Tensor, "rows actions"]:
        return self.value.expand_as(mean)


class Gym:
    """Two sets of environments: one that a batch is played in, one for validation."""

    def __init__(self, config: GymConfig) -> None:
        """Raises UsageError for an environment that is not there, cannot be made, or has unsupported spaces."""
        self.config = config
        self.training = Environments(config, config.contexts * config.group_size)
        self.validation = Environments(config, config.validation_episodes)

    def policy(self, generator: torch.Generator) -> ActorPolicy:
        encoder, decoder = self.training.encoder, self.training.decoder
        kind = GaussianPolicy if decoder.continuous else CategoricalPolicy
        return kind(encoder.features, decoder.outputs, self.config.hidden, generator)

    @torch.no_grad()
    def sample(self, policy: ActorPolicy, generators: Generators) -> Experience:
        seeds = torch.randint(TRAINING_SEEDS, (self.config.contexts,), generator=generators["contexts"])
        seeds = seeds.repeat_interleave(self.config.group_size)
        episodes = self.training.play(
            seeds.tolist(), lambda observations: policy.draw(observations, generators["actions"])
        )
        return Experience(
            observations=episodes.observations,
            actions=episodes.actions,
            old_log_probs=policy.distribution(episodes.observations).log_prob(episodes.actions),
            rewards=episodes.returns,
            advantages=group_advantages(episodes.returns, self.config.group_size),
            sequence_ids=episodes.sequence_ids,
        )

    @torch.no_grad()
    def evaluate(self, policy: ActorPolicy) -> dict[str, float | None]:
        """Mean greedy return, and how many of the episodes ran into the time limit."""
        seeds = range(TRAINING_SEEDS, TRAINING_SEEDS + self.config.validation_episodes)
        episodes = self.validation.play(seeds, policy.greedy)
        return {
            "accuracy": float(episodes.returns.mean()),
            "accuracy_sampled": None,
            "truncated": float((episodes.truncated & ~episodes.terminated).float().mean()),
        }
