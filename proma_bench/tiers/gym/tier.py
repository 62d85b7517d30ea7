"""The second tier: an MLP acts in a Gymnasium environment.

An initial state is a reset seed, a sequence is an episode, its reward the undiscounted return, and a row one step.
All episodes of a group have the same reset seed, so the mean of the group is a baseline for this start. See
`proma_bench.tiers.gym.environments` for the other effects of the seed and for the end of episodes.

The metric ``reward`` is the mean return of the sampled batch. ``score`` is the mean return of the greedy policy (most
likely action, or mean of the Gaussian) with validation seeds, which training never draws. The two can differ: in a
deterministic grid, a policy that always reaches the goal when it samples may run into a wall forever when it is greedy.
``score_sampled`` is not measured, because it would need further episodes. ``truncated`` is the share of the validation
episodes that ended at the time limit.
"""

from __future__ import annotations

import torch

from proma_bench.learning.experience import Experience
from proma_bench.learning.policy import Generators
from proma_bench.tiers.gym.config import GymConfig
from proma_bench.tiers.gym.environments import Environments
from proma_bench.tiers.gym.policies import ActorPolicy, CategoricalPolicy, GaussianPolicy

TRAINING_SEEDS = 2**31
"""Training draws reset seeds below this number; validation uses seeds from this number on."""


class Gym:
    """Two sets of environments: one for training batches and one for validation."""

    def __init__(self, config: GymConfig) -> None:
        """Make the environments.

        Args:
            config: the settings of the run.

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
        """Score a policy in greedy episodes.

        Args:
            policy: the policy.

        Returns:
            ``score``, the mean return, and ``truncated``, the share of episodes that ended at the time limit;
            ``score_sampled`` is None.
        """
        seeds = range(TRAINING_SEEDS, TRAINING_SEEDS + self.config.validation_episodes)
        episodes = self.validation.play(seeds, policy.greedy)
        return {
            "score": float(episodes.returns.mean()),
            "score_sampled": None,
            "truncated": float((episodes.truncated & ~episodes.terminated).float().mean()),
        }
