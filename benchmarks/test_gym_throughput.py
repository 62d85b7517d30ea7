"""Environment steps per second: the gym tier's sampler against Gymnasium's own vector loop with random actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import pytest
import torch

from benchmarks.settings import Settings
from proma_bench.tiers.gym.config import GymConfig
from proma_bench.tiers.gym.tier import Gym

LOOP = "plain vector loop, random actions"
SAMPLER = "sampler, policy and all"
ENVIRONMENTS = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1")  # one whose episodes are short, and two of equal length


def sampler(tier: Gym) -> tuple[Callable[[], object], int]:
    """A call that samples always the same batch, and how many environment steps that takes."""
    policy = tier.policy(torch.Generator().manual_seed(0))

    def call() -> Any:
        return tier.sample(policy, {name: torch.Generator().manual_seed(1) for name in ("initial_states", "actions")})

    return call, call().rows


def vector_loop(config: GymConfig, steps: int) -> Callable[[], object]:
    """A call that takes as many steps, or a few more, in as many environments."""
    copies = config.initial_states * config.group_size
    environments = gymnasium.make_vec(config.env, copies, vectorization_mode="sync")
    environments.action_space.seed(0)

    def call() -> None:
        environments.reset(seed=0)
        for _ in range(-(-steps // copies)):
            environments.step(environments.action_space.sample())

    return call


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_environment_steps(env: str, compare: Any, benchmark: Any, settings: Settings) -> None:
    limit = None if settings.full else 100
    config = GymConfig(env=env, max_episode_steps=limit)
    ours, steps = sampler(Gym(config))
    result = compare(
        f"environments: {env}", "environments", {LOOP: vector_loop(config, steps), SAMPLER: ours}, LOOP, env_steps=steps
    )
    benchmark.extra_info["rates"] = {name: round(steps / timing.seconds) for name, timing in result.items()}
