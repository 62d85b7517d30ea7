"""The settings that every tier shares, and the table of tiers. It imports no torch: the command line reads it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from proma_bench.errors import UsageError, require_known
from proma_bench.learning.methods import METHODS
from proma_bench.projection.config import projection_config, setting

LOSS_AGGREGATIONS = ("token-mean", "sequence-mean", "sum")
BUDGETS = ("smoke", "quick", "full")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every tier shares. A subclass with a ``tier`` of its own adds that tier.

    Raises:
        UsageError: a value is out of range.
    """

    tier: ClassVar[str]
    """The tier's name."""
    implementation: ClassVar[str]
    """The tier's class, which is constructed from its config alone, as ``package.module:Class``."""
    height: ClassVar[int]
    """Where the tier stands on the ladder: policies grow with it."""
    budgets: ClassVar[dict[str, dict[str, Any]]]
    """The settings of a run in each of the ladder's budgets, where they are not the default."""
    sweep: ClassVar[dict[str, tuple[float, ...]]]
    """Learning rates of the ladder's frontier in each of its budgets; the default rate is among them."""
    score_metric: ClassVar[str] = "score"
    """The metric that the claims take for the score: score (greedy) or score_sampled."""
    threads: ClassVar[int | None] = 1
    """Of torch in a run of its own; None is all cores. Small policies are faster with one, and sums keep an order."""

    method: str = "proma"
    """Update rule: reinforce, grpo (ratios, clipped) or proma."""
    seed: int = 0
    """Fixes the initial weights, the initial states and all sampling; methods with one seed share all three."""
    steps: int = 60
    """Optimizer steps."""
    learning_rate: float = 0.005
    """Learning rate of Adam."""
    weight_decay: float = 0.0
    """Decoupled from the gradient, as in AdamW; 0 is plain Adam."""
    warmup_steps: int = 0
    """Optimizer steps over which the learning rate rises to its value."""
    group_size: int = 8
    """Samples per initial state; advantages are relative to their group (the paper: 8)."""
    microbatch_size: int = 8
    """Sequences per microbatch (the paper: 8)."""
    steps_per_batch: int = 2
    """Optimizer steps on each batch of samples (the paper: 2)."""
    shuffle: bool = True
    """Mix the groups before cutting microbatches; otherwise neighbours stay together, one group after another."""
    loss_aggregation: Literal["token-mean", "sequence-mean", "sum"] = "token-mean"
    """What a row weighs: as all rows of the step (the paper), as all of its sequence, or one over the sequences."""
    clip: float = 0.2
    """GRPO only: the likelihood ratio is clipped to 1 - clip .. 1 + clip."""
    projection: str = setting("projection")
    """PROMA only: how the running gradient is projected: iterative (the paper's choice), exact, ridge, or intra."""
    sweeps: int = setting("sweeps")
    """PROMA only: passes of the iterative projection."""
    max_removed: float | None = setting("max_removed")
    """PROMA only: remove at most this multiple of the microbatch gradient's norm; None removes without limit."""
    shrinkage: float = setting("shrinkage")
    """PROMA only: the share of the projected component that is removed, 0 to 1."""
    projection_rank: int = setting("projection_rank")
    """PROMA only: dominant directions on either side of a weight that the intra projection removes."""
    projected: Literal["all", "linear"] = "all"
    """PROMA only: tensors that are projected: all, or weights of linear layers alone, as in the author's code."""
    validate_every: int = 1
    """Optimizer steps between validations; the last step is always validated."""
    checkpoint_every: int = 10
    """Optimizer steps between checkpoints (rounded up to whole batches)."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "tier" in cls.__dict__:
            _add_tier(cls)

    def __post_init__(self) -> None:
        require_known("method", self.method, METHODS)
        positive = "steps group_size microbatch_size steps_per_batch validate_every checkpoint_every".split()
        self._require_positive(*positive)
        for name in ("seed", "warmup_steps"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("learning_rate", self.learning_rate > 0 and math.isfinite(self.learning_rate), "above 0")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        self._require("clip", 0 < self.clip < 1, "between 0 and 1")
        require_known("loss_aggregation", self.loss_aggregation, LOSS_AGGREGATIONS)
        require_known("projected", self.projected, ("all", "linear"))
        try:
            projection_config(self)
        except ValueError as error:
            raise UsageError(str(error)) from None

    @classmethod
    def ladder_settings(cls, budget: str, model: str | None, has_gpu: bool) -> dict[str, Any]:
        """The settings of the ladder's runs.

        Args:
            budget: one of BUDGETS.
            model: what the ladder's option ``--model`` names, for tiers that take one.
            has_gpu: whether there is a GPU.

        Returns:
            Settings by name, where they are not the default.
        """
        return cls.budgets[budget]

    @property
    def task_name(self) -> str | None:
        """The environment or task that is learned; None on a tier that has only one."""
        return None

    @property
    def title(self) -> str:
        """The tier's name, with the task where it has several."""
        return self.tier if self.task_name is None else f"{self.tier}/{self.task_name}"

    @property
    def name(self) -> str:
        """What progress bars and messages call the run."""
        return f"{self.title} {self.method} lr {self.learning_rate:g} seed {self.seed}"

    @property
    def score_range(self) -> tuple[float, float] | None:
        """The lowest and the highest score that is possible; None where that is not known."""
        return 0.0, 1.0

    @property
    def is_smoke_run(self) -> bool:
        """Whether the run only shows that the code runs: no claim is judged on it."""
        return False

    @property
    def has_test_set(self) -> bool:
        """Whether there are test data that training and validation never see."""
        return False

    def remark(self, metrics: dict[str, Any]) -> str | None:
        """What a user should be told of a step with these metrics; None for nothing."""
        return None

    def _require_positive(self, *names: str) -> None:
        for name in names:
            self._require(name, getattr(self, name) >= 1, "at least 1")

    def _require_whole_steps(self, name: str) -> None:
        """The optimizer steps on a batch share its initial states evenly."""
        whole = getattr(self, name) % self.steps_per_batch == 0
        self._require(name, whole, f"a multiple of steps_per_batch ({self.steps_per_batch})")

    def _require(self, name: str, valid: bool, wanted: str) -> None:
        if not valid:
            raise UsageError(f"{name} must be {wanted}, got {getattr(self, name)!r}")


TIERS: dict[str, type[RunConfig]] = {}
"""The configuration of each tier by its name, small policies first. `proma_bench.tiers` fills it."""


def _add_tier(config: type[RunConfig]) -> None:
    known = TIERS.get(config.tier)
    if known is not None and known.__qualname__ != config.__qualname__:
        raise ValueError(f"there is a tier {config.tier!r} already: {known.__module__}.{known.__qualname__}")
    TIERS[config.tier] = config
    ordered = sorted(TIERS.items(), key=lambda item: item[1].height)
    TIERS.clear()
    TIERS.update(ordered)


def to_json(config: RunConfig) -> dict[str, Any]:
    """The settings as stored in ``config.json``."""
    return {"tier": config.tier, **dataclasses.asdict(config)}
