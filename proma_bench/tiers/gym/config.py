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
"""The lowest and the highest possible return of an episode with the environment's own time limit."""


@dataclass(frozen=True, kw_only=True)
class GymConfig(RunConfig):
    """An MLP acts in a Gymnasium environment: a sequence is an episode, and its reward is the return.

    A group consists of several episodes with the same reset seed. All registered environments with Box or Discrete
    observations and actions are supported: CartPole-v1, Acrobot-v1, FrozenLake8x8-v1, Pendulum-v1,
    MountainCarContinuous-v0, ...
    """

    tier: ClassVar[str] = "gym"
    implementation: ClassVar[str] = "proma_bench.tiers.gym.tier:Gym"
    height: ClassVar[int] = 2
    budgets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"steps": 4}, "quick": {"steps": 20}, "full": {"steps": 100},
    }  # fmt: skip
    sweep: ClassVar[dict[str, tuple[float, ...]]] = {
        "smoke": (0.005, 0.01),
        "quick": (0.0025, 0.005, 0.01, 0.02),
        "full": (0.0025, 0.005, 0.01, 0.02),
    }

    env: str = "CartPole-v1"
    """Name of the environment in Gymnasium, or MODULE:NAME if a module has to be imported to register it."""
    learning_rate: float = 0.01
    """Learning rate of Adam."""
    microbatch_size: int = 4
    """Sequences per microbatch. With the other defaults, an optimizer step has four microbatches."""
    initial_states: int = 4
    """Reset seeds per batch; group_size episodes are played from each."""
    hidden: int = 64
    """Width of the two hidden layers; unless it is above microbatch_size, an exact projection removes everything."""
    validation_episodes: int = 8
    """Greedy episodes per validation, always with the same reset seeds."""
    max_episode_steps: int | None = None
    """Time limit of an episode in steps; None is the environment's own limit, or 1000 if it has none."""
    slippery: bool = True
    """FrozenLake only: whether the ice is slippery; without, every move goes in the chosen direction."""

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
