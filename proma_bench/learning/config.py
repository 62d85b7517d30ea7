"""The settings that all tiers share, and the table of tiers. It imports no torch, because the command line reads it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from proma_bench.backward.uncovered import UNCOVERED, Uncovered
from proma_bench.errors import UsageError, require_known
from proma_bench.learning.methods import method_named
from proma_bench.projection.config import projection_config, setting

LOSS_AGGREGATIONS = ("token-mean", "sequence-mean", "sum")
BUDGETS = ("smoke", "quick", "full")
LARGEST = 2**31
"""Whole numbers below it are sizes and counts; beyond 64 bits torch raises errors of its own."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The settings that all tiers share. A subclass that defines ``tier`` adds this tier to `TIERS`.

    Raises:
        UsageError: a value is out of range.
    """

    tier: ClassVar[str]
    """The tier's name."""
    implementation: ClassVar[str]
    """The tier's class, as ``package.module:Class``. Its constructor takes only the config."""
    height: ClassVar[int]
    """The tier's position on the ladder. Higher tiers have larger policies."""
    budgets: ClassVar[dict[str, dict[str, Any]]]
    """The settings of a run in each budget of the ladder, where they differ from the defaults."""
    sweep: ClassVar[dict[str, tuple[float, ...]]]
    """Learning rates of the ladder's frontier in each budget. They include the default rate."""
    score_metric: ClassVar[str] = "score"
    """The metric that is the score in claims: ``score`` (greedy) or ``score_sampled``."""
    threads: ClassVar[int | None] = 1
    """Number of torch's threads in ``proma-bench run``; None uses all cores.

    Small policies are faster with one thread, and it keeps the order of sums, and so their rounding, the same.
    """

    method: str = "proma"
    """Method: reinforce, grpo (clips likelihood ratios), proma, another update rule, or FILE.py:NAME of your own."""
    seed: int = 0
    """Seed of the initial weights, the initial states and all sampling; methods with the same seed share all three."""
    steps: int = 60
    """Optimizer steps."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Optimizer: adam (AdamW), or sgd without momentum."""
    learning_rate: float = 0.005
    """Learning rate; TRPO, which needs no optimizer, takes it for the radius of its trust region, in nats."""
    weight_decay: float = 0.0
    """Weight decay, decoupled from the gradient as in AdamW; 0 is plain Adam."""
    warmup_steps: int = 0
    """Optimizer steps in which the learning rate rises linearly to its full value."""
    group_size: int = 8
    """Sequences sampled per initial state; advantages are relative to this group (the paper: 8)."""
    microbatch_size: int = 8
    """Sequences per microbatch (the paper: 8)."""
    steps_per_batch: int = 2
    """Optimizer steps on each batch of samples (the paper: 2)."""
    shuffle: bool = True
    """Shuffle the sequences before they are split into microbatches; otherwise groups stay together, in order."""
    sort_by_length: bool = False
    """After that, sort the sequences by length, so that a microbatch has similar ones (as some trainers do)."""
    loss_aggregation: Literal["token-mean", "sequence-mean", "sum"] = "token-mean"
    """How rows are weighted: all rows equally (as in the paper), all sequences equally, or summed per sequence."""
    clip: float = 0.2
    """GRPO only: the likelihood ratio is clipped to the range from 1 - clip to 1 + clip."""
    dual_clip: float | None = None
    """GRPO only: a negative advantage counts at most this many times, above 1; None is without limit."""
    clip_high: float = 0.28
    """DAPO and CISPO only: the likelihood ratio is clipped above 1 + clip_high."""
    gspo_low: float = 3e-4
    """GSPO only: the ratio of a sequence is clipped below 1 - gspo_low."""
    gspo_high: float = 4e-4
    """GSPO only: the ratio of a sequence is clipped above 1 + gspo_high."""
    kl_penalty: float = 1.0
    """PPO-KL only: the coefficient of the divergence from the policy that has sampled, estimated or exact."""
    projection: str = setting("projection")
    """PROMA only: how the running gradient is projected: iterative (as in the paper), exact, ridge or intra."""
    sweeps: int = setting("sweeps")
    """PROMA only: number of passes of the iterative projection."""
    max_removed: float | None = setting("max_removed")
    """PROMA only: remove at most this multiple of the microbatch gradient's norm; None removes without limit."""
    shrinkage: float = setting("shrinkage")
    """PROMA only: the share of the projected component that is removed, from 0 to 1."""
    projection_rank: int = setting("projection_rank")
    """PROMA only: number of dominant directions on each side of a weight matrix that the intra projection removes."""
    projected: Literal["all", "linear"] = "all"
    """PROMA only: the projected tensors: all, or only the weights of linear layers, as in the author's code."""
    rule_settings: dict[str, float] | None = None
    """Update rules only: the settings of the rule that is the method, such as regularisation 0.5 of isopo."""
    uncovered: Uncovered = "refuse"
    """PROMA only: parameters of what mixes sequences: refuse is an error, autograd one more pass for each sequence."""
    validate_every: int = 1
    """Optimizer steps between validations; the last step is always validated."""
    checkpoint_every: int = 10
    """Optimizer steps between checkpoints, rounded up to whole batches."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "tier" in cls.__dict__:
            _add_tier(cls)

    def __post_init__(self) -> None:
        if method_named(self.method).rule is None and self.rule_settings:
            raise UsageError(f"rule_settings are for update rules; method {self.method} has options of its own")
        positive = "steps group_size microbatch_size steps_per_batch validate_every checkpoint_every".split()
        self._require_positive(*positive)
        for name, value in vars(self).items():
            if isinstance(value, int) and name != "seed":
                self._require(name, value < LARGEST, f"below {LARGEST}")
        for name in ("seed", "warmup_steps"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("learning_rate", self.learning_rate > 0 and math.isfinite(self.learning_rate), "above 0")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        for name in ("clip", "gspo_low"):
            self._require(name, 0 < getattr(self, name) < 1, "between 0 and 1")
        for name in ("clip_high", "gspo_high"):
            self._require(name, 0 < getattr(self, name) < math.inf, "above 0")
        self._require("dual_clip", self.dual_clip is None or 1 < self.dual_clip < math.inf, "above 1, or None")
        self._require("kl_penalty", 0 <= self.kl_penalty < math.inf, "0 or more")
        require_known("optimizer", self.optimizer, ("adam", "sgd"))
        require_known("loss_aggregation", self.loss_aggregation, LOSS_AGGREGATIONS)
        require_known("projected", self.projected, ("all", "linear"))
        require_known("uncovered", self.uncovered, UNCOVERED)
        try:
            projection_config(self)
        except ValueError as error:
            raise UsageError(str(error)) from None

    @classmethod
    def ladder_settings(cls, budget: str, model: str | None, has_gpu: bool) -> dict[str, Any]:
        """The settings of the ladder's runs.

        Args:
            budget: one of `BUDGETS`.
            model: the value of the ladder's option ``--model``, for tiers with a choice of models.
            has_gpu: whether there is a GPU.

        Returns:
            Settings by name, where they differ from the defaults.
        """
        return cls.budgets[budget]

    @property
    def task_name(self) -> str | None:
        """The environment or task; None for a tier that has only one."""
        return None

    @property
    def title(self) -> str:
        """The tier's name, followed by the task if the tier has several."""
        return self.tier if self.task_name is None else f"{self.tier}/{self.task_name}"

    @property
    def name(self) -> str:
        """The name of the run in progress bars and messages."""
        return f"{self.title} {self.method} lr {self.learning_rate:g} seed {self.seed}"

    @property
    def score_range(self) -> tuple[float, float] | None:
        """The lowest and the highest possible score; None if they are not known."""
        return 0.0, 1.0

    @property
    def is_smoke_run(self) -> bool:
        """Whether the run only shows that the code works. No claim is judged on such a run."""
        return False

    @property
    def has_test_set(self) -> bool:
        """Whether there is a test set, which training and validation never use."""
        return False

    def remark(self, metrics: dict[str, Any]) -> str | None:
        """A message to the user about an optimizer step.

        Args:
            metrics: the metrics of the step by name.

        Returns:
            The message; None if there is nothing to report.
        """
        return None

    def _require_positive(self, *names: str) -> None:
        for name in names:
            self._require(name, getattr(self, name) >= 1, "at least 1")

    def _require_whole_steps(self, name: str) -> None:
        """Require that the initial states can be divided evenly among the optimizer steps of a batch."""
        whole = getattr(self, name) % self.steps_per_batch == 0
        self._require(name, whole, f"a multiple of steps_per_batch ({self.steps_per_batch})")

    def _require(self, name: str, valid: bool, wanted: str) -> None:
        if not valid:
            raise UsageError(f"{name} must be {wanted}, got {getattr(self, name)!r}")


TIERS: dict[str, type[RunConfig]] = {}
"""The config class of each tier by name, small policies first. Importing `proma_bench.tiers` fills it."""


def _add_tier(config: type[RunConfig]) -> None:
    known = TIERS.get(config.tier)
    if known is not None and known.__qualname__ != config.__qualname__:
        raise ValueError(f"there is a tier {config.tier!r} already: {known.__module__}.{known.__qualname__}")
    TIERS[config.tier] = config
    ordered = sorted(TIERS.items(), key=lambda item: item[1].height)
    TIERS.clear()
    TIERS.update(ordered)


def defaults(config: type[RunConfig]) -> dict[str, Any]:
    """The settings of a tier that have a default, with it.

    The default of a new setting is what was done before there was one, so that runs from then go on.
    """
    found = {field.name: _default(field) for field in dataclasses.fields(config)}
    return {name: value for name, value in found.items() if value is not dataclasses.MISSING}


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def to_json(config: RunConfig) -> dict[str, Any]:
    """The settings in the form of ``config.json``.

    Args:
        config: the settings of a run.

    Returns:
        The name of the tier and all settings.
    """
    return {"tier": config.tier, **dataclasses.asdict(config)}
