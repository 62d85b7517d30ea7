"""The settings of the bandit tier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from proma_bench.learning.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class BanditConfig(RunConfig):
    """A small MLP classifies scikit-learn's digits: a state is an image, an action a label, reward 1 if it is right."""

    tier: ClassVar[str] = "bandit"
    implementation: ClassVar[str] = "proma_bench.tiers.bandit.tier:Bandit"
    height: ClassVar[int] = 1
    budgets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"steps": 6}, "quick": {"steps": 60}, "full": {"steps": 300},
    }  # fmt: skip
    sweep: ClassVar[dict[str, tuple[float, ...]]] = {
        "smoke": (0.005, 0.01),
        "quick": (0.00125, 0.0025, 0.005, 0.01),
        "full": (0.00125, 0.0025, 0.005, 0.01, 0.02),
    }

    initial_states: int = 64
    """Images per batch; group_size labels are sampled for each."""
    hidden: int = 64
    """Width of the two hidden layers; unless it is above microbatch_size, an exact projection removes everything."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("hidden")
        self._require("initial_states", 1 <= self.initial_states <= 1000, "between 1 and 1000")
        self._require_whole_steps("initial_states")
