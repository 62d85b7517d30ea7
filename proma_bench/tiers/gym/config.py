"""The settings of the gym tier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from proma_bench.learning.config import RunConfig

SCORE_RANGES: dict[str, tuple[float, float]] = {
    "Acrobot-v1": (-500.0, 0.0),
    "CartPole-v1": (0.0, 500.0),
    "FrozenLake-v1": (0.0, 1.0),
    "FrozenLake8x8-v1": (0.0, 1.0),
    "MountainCar-v0": (-200.0, 0.0),
    "MountainCarContinuous-v0": (-100.0, 100.0),
    "Pendulum-v1": (-3255.0, 0.0),
}
"""The lowest and the highest return that an episode of the environment's own length can have."""


@dataclass(frozen=True, kw_only=True)
class GymConfig(RunConfig):
    """An MLP acts in a Gymnasium environment: a sequence is an episode, its reward the return.

    A group is several episodes from one reset seed. Any registered environment whose observations and actions are Box
    or Discrete will do: CartPole-v1, Acrobot-v1, FrozenLake8x8-v1, Pendulum-v1, MountainCarContinuous-v0, ...
    """

    tier: ClassVar[str] = "gym"
    implementation: ClassVar[str] = "proma_bench.tiers.gym.tier:Gym"
    height: ClassVar[int] = 2
    budgets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"steps": 4}, "quick": {"steps": 20}, "full": {"steps": 100},
    }  # fmt: skip
    sweep: ClassVar[dict[str, tuple[float, ...]]] = {
        "smoke": (0.005, 0.01),
        "quick": (0.005, 0.01),
        "full": (0.0025, 0.005, 0.01, 0.02),
    }

    env: str = "CartPole-v1"
    """Name under which Gymnasium knows the environment, or MODULE:NAME for one that a module registers."""
    learning_rate: float = 0.01
    """Learning rate of Adam."""
    microbatch_size: int = 4
    """Sequences per microbatch; an optimizer step has four then."""
    initial_states: int = 4
    """Reset seeds per batch, each played group_size times."""
    hidden: int = 64
    """Width of the two hidden layers; wider than the microbatch, or an exact projection removes everything."""
    validation_episodes: int = 8
    """Greedy episodes after each optimizer step, always from the same reset seeds."""
    max_episode_steps: int | None = None
    """Time limit of an episode; None is the environment's own, or 1000 where it has none."""
    slippery: bool = True
    """FrozenLake only: off, every step goes where it should."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("hidden", "initial_states", "validation_episodes")
        self._require_whole_steps("initial_states")
        limit = self.max_episode_steps
        self._require("max_episode_steps", limit is None or limit >= 1, "None or at least 1")

    @property
    def task_name(self) -> str:
        return self.env

    @property
    def score_range(self) -> tuple[float, float] | None:
        return SCORE_RANGES.get(self.env) if self.max_episode_steps is None else None
