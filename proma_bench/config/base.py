"""The settings that every rung shares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from proma_bench.errors import UsageError, require_known

METHODS = ("reinforce", "grpo", "proma")
PROJECTIONS = ("exact", "iterative", "ridge", "intra")
NORMALISATIONS = ("token-mean", "sequence-mean", "sum")
BUDGETS = ("smoke", "quick", "full")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every rung shares. Raises UsageError for a value out of range."""

    tier: ClassVar[str]
    """The rung's name."""
    budgets: ClassVar[dict[str, dict[str, Any]]]
    """The settings of a run in each of the ladder's budgets, where they are not the default."""
    sweep: ClassVar[dict[str, tuple[float, ...]]]
    """Learning rates of the ladder's frontier in each of its budgets; the default rate is among them."""
    score: ClassVar[str] = "accuracy"
    """The metric that the claims take for the score."""
    threads: ClassVar[int | None] = 1
    """Of torch in a run of its own; None is all cores. Small policies are faster with one, and sums keep an order."""

    method: str = "proma"
    """Update rule: reinforce, grpo (ratios, clipped) or proma."""
    seed: int = 0
    """Fixes the initial weights, the contexts and all sampling; methods with one seed share all three."""
    steps: int = 60
    """Optimizer steps."""
    learning_rate: float = 0.005
    """Learning rate of Adam."""
    weight_decay: float = 0.0
    """Decoupled from the gradient, as in AdamW; 0 is plain Adam."""
    warmup_steps: int = 0
    """Optimizer steps over which the learning rate rises to its value."""
    group_size: int = 8
    """Samples a context; advantages are relative to their group (the paper: 8)."""
    microbatch_size: int = 8
    """Sequences a microbatch (the paper: 8)."""
    steps_per_batch: int = 2
    """Optimizer steps on each batch of samples (the paper: 2)."""
    shuffle: bool = True
    """Mix the groups before cutting microbatches; otherwise neighbours stay together, one group after another."""
    normalisation: Literal["token-mean", "sequence-mean", "sum"] = "token-mean"
    """What a row weighs: as all rows of the step (the paper), as all of its sequence, or one over the sequences."""
    clip: float = 0.2
    """GRPO only: the likelihood ratio is clipped to 1 - clip .. 1 + clip."""
    projection: Literal["exact", "iterative", "ridge", "intra"] = "iterative"
    """PROMA only: how the running gradient is projected; iterative is the paper's choice, intra another method."""
    sweeps: int = 2
    """PROMA only: passes of the iterative projection."""
    max_removed: float | None = 0.5
    """PROMA only: remove at most this multiple of the microbatch gradient's norm; None removes without limit."""
    shrinkage: float = 1.0
    """PROMA only: the share of the projected component that is removed, 0 to 1."""
    projection_rank: int = 4
    """PROMA only: dominant directions on either side of a weight that the intra projection removes."""
    projected: Literal["all", "linear"] = "all"
    """PROMA only: tensors that are projected: all, or weights of linear layers alone, as in the author's code."""
    validate_every: int = 1
    """Optimizer steps between validations; the last step is always validated."""
    checkpoint_every: int = 10
    """Optimizer steps between checkpoints (rounded up to whole batches)."""

    def __post_init__(self) -> None:
        require_known("method", self.method, METHODS)
        positive = "steps group_size microbatch_size steps_per_batch sweeps validate_every checkpoint_every".split()
        self._require_positive(*positive)
        for name in ("seed", "warmup_steps", "projection_rank"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("learning_rate", self.learning_rate > 0 and math.isfinite(self.learning_rate), "above 0")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        self._require("clip", 0 < self.clip < 1, "between 0 and 1")
        require_known("projection", self.projection, PROJECTIONS)
        require_known("normalisation", self.normalisation, NORMALISATIONS)
        require_known("projected", self.projected, ("all", "linear"))
        self._require("max_removed", self.max_removed is None or 0 <= self.max_removed < math.inf, "None or 0 or more")
        self._require("shrinkage", 0 <= self.shrinkage <= 1, "between 0 and 1")

    @property
    def rung(self) -> str:
        """The rung's name, with its environment where it has one."""
        return self.tier

    @property
    def score_range(self) -> tuple[float, float] | None:
        """The lowest and the highest score that is possible; None where that is not known."""
        return 0.0, 1.0

    @property
    def name(self) -> str:
        """What progress bars and messages call the run."""
        return f"{self.rung} {self.method} lr {self.learning_rate:g} seed {self.seed}"

    def remark(self, metrics: dict[str, Any]) -> str | None:
        """What a user should be told of a step with these metrics; None for nothing."""
        return None

    def _require_positive(self, *names: str) -> None:
        for name in names:
            self._require(name, getattr(self, name) >= 1, "at least 1")

    def _require_whole_steps(self, contexts: int) -> None:
        """The optimizer steps on a batch share its contexts evenly."""
        whole = contexts % self.steps_per_batch == 0
        self._require("contexts", whole, f"a multiple of steps_per_batch ({self.steps_per_batch})")

    def _require(self, name: str, valid: bool, wanted: str) -> None:
        if not valid:
            raise UsageError(f"{name} must be {wanted}, got {getattr(self, name)!r}")
