"""The second tier: an MLP acts in a Gymnasium environment.

An initial state is a reset seed, a sequence an episode, its reward the undiscounted return; a row is one step. The
episodes of a group begin from the same reset seed, so that the group's mean is a baseline for just this start. What the
seed fixes besides, and how episodes end, is told in `proma_bench.tiers.gym.environments`.

The *score* of this tier is a return. In the terms that all tiers share, ``reward`` is the mean return of the sampled
batch, and ``score`` the mean return of the greedy policy (most likely action, mean of the Gaussian) on validation
seeds that training never draws. The two need not go together: in a grid without chance, a policy that reaches its goal
whenever it is sampled may run into a wall for ever when it is greedy. ``score_sampled`` is not measured: that would
be another batch of episodes.
``truncated`` is the share of the validation episodes that the time limit ended.
"""

from __future__ import annotations

import torch

from proma_bench.learning.experience import Experience
from proma_bench.learning.policy import Generators
from proma_bench.tiers.gym.config import GymConfig
from proma_bench.tiers.gym.environments import Environments
from proma_bench.tiers.gym.policies import ActorPolicy, CategoricalPolicy, GaussianPolicy

TRAINING_SEEDS = 2**31
"""Training draws reset seeds below this number; validation counts from it."""


class Gym:
    """Two sets of environments: one that a batch is played in, one for validation."""

    def __init__(self, config: GymConfig) -> None:
        """Make the environments.

        Raises:
            UsageError: the environment does not exist, cannot be made, or has unsupported spaces.
        """
        self.config = config
        self.training = Environments(config, config.initial_states * config.group_size)
        self.validation = Environments(config, config.validation_episodes)

    def policy(self, generator: torch.Generator) -> ActorPolicy:
        encoder, decoder = self.training.encoder, self.training.decoder
        kind = GaussianPolicy if decoder.continuous else CategoricalPolicy
        return kind(encoder.features, decoder.outputs, self.config.hidden, generator)

    @torch.no_grad()
    def sample(self, policy: ActorPolicy, generators: Generators) -> Experience:
        seeds = torch.randint(TRAINING_SEEDS, (self.config.initial_states,), generator=generators["initial_states"])
        seeds = seeds.repeat_interleave(self.config.group_size)
        episodes = self.training.play(
            seeds.tolist(), lambda observations: policy.draw(observations, generators["actions"])
        )
        return Experience(
            observations=episodes.observations,
            actions=episodes.actions,
            old_log_probs=policy.distribution(episodes.observations).log_prob(episodes.actions),
            rewards=episodes.returns,
            sequence_ids=episodes.sequence_ids,
        )

    @torch.no_grad()
    def evaluate(self, policy: ActorPolicy) -> dict[str, float | None]:
        """Mean greedy return, and how many of the episodes ran into the time limit."""
        seeds = range(TRAINING_SEEDS, TRAINING_SEEDS + self.config.validation_episodes)
        episodes = self.validation.play(seeds, policy.greedy)
        return {
            "score": float(episodes.returns.mean()),
            "score_sampled": None,
            "truncated": float((episodes.truncated & ~episodes.terminated).float().mean()),
        }
