"""The settings of a run: one dataclass for what every rung shares, one for each rung.

Plain values only, and no import of torch: the command line builds its options and its help from these classes.
Defaults follow the paper's run (arXiv 2601.10498) where the rung allows it.
"""

from __future__ import annotations

import dataclasses
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

    method: str = "proma"
    """Update rule: reinforce, grpo (ratios, clipped) or proma."""
    seed: int = 0
    """Fixes the initial weights, the contexts and all sampling; methods with one seed share all three."""
    steps: int = 60
    """Optimizer steps."""
    learning_rate: float = 0.005
    """Learning rate of Adam."""
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
        for name in positive:
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("seed", "warmup_steps", "projection_rank"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("learning_rate", self.learning_rate > 0 and math.isfinite(self.learning_rate), "above 0")
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

    def _require(self, name: str, valid: bool, wanted: str) -> None:
        if not valid:
            raise UsageError(f"{name} must be {wanted}, got {getattr(self, name)!r}")


@dataclass(frozen=True, kw_only=True)
class BanditConfig(RunConfig):
    """A small MLP names scikit-learn's digits: a context is an image, an action a label, reward 1 when right."""

    tier: ClassVar[str] = "bandit"
    budgets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"steps": 6}, "quick": {"steps": 60}, "full": {"steps": 300},
    }  # fmt: skip
    sweep: ClassVar[dict[str, tuple[float, ...]]] = {
        "smoke": (0.005, 0.01),
        "quick": (0.0025, 0.005, 0.01),  # three of four, to stay within minutes
        "full": (0.0025, 0.005, 0.01, 0.02),
    }

    contexts: int = 64
    """Images a batch, each sampled group_size times."""
    hidden: int = 64
    """Width of the two hidden layers; wider than the microbatch, or an exact projection removes everything."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("hidden", self.hidden >= 1, "at least 1")
        self._require("contexts", 1 <= self.contexts <= 1000, "between 1 and 1000")
        divisible = self.contexts % self.steps_per_batch == 0
        self._require("contexts", divisible, f"a multiple of steps_per_batch ({self.steps_per_batch})")


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
    """Sequences a microbatch; an optimizer step has four then."""
    contexts: int = 4
    """Reset seeds a batch, each played group_size times."""
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
        for name in ("hidden", "contexts", "validation_episodes"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        divisible = self.contexts % self.steps_per_batch == 0
        self._require("contexts", divisible, f"a multiple of steps_per_batch ({self.steps_per_batch})")
        limit = self.max_episode_steps
        self._require("max_episode_steps", limit is None or limit >= 1, "None or at least 1")

    @property
    def rung(self) -> str:
        return f"{self.tier}/{self.env}"

    @property
    def score_range(self) -> tuple[float, float] | None:
        return SCORE_RANGES.get(self.env) if self.max_episode_steps is None else None


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(RunConfig):
    """A tiny Qwen3 answers questions: a sequence is a generated answer, reward 1 when it is right.

    It begins from a supervised warm start on answers half of which are wrong, which is made once and then kept in
    PROMA_BENCH_CACHE (~/.cache/proma_bench unless set). Questions and scores are reasoning-gym's.
    """

    tier: ClassVar[str] = "transformer"
    budgets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"steps": 4, "contexts": 8, "validation_questions": 32, "warm_start_steps": 10},
        "quick": {"steps": 40},
        "full": {"steps": 160},
    }
    sweep: ClassVar[dict[str, tuple[float, ...]]] = {
        "smoke": (5e-5, 1e-4),
        "quick": (5e-5,),
        "full": (2.5e-5, 5e-5, 1e-4),
    }
    score: ClassVar[str] = "accuracy_sampled"  # the greedy answers are good from the start

    task: str = "chain_sum"
    """Name of a reasoning-gym task: chain_sum (here of two or three one-digit terms), gcd, spell_backward, ..."""
    steps: int = 160
    """Optimizer steps."""
    learning_rate: float = 5e-5
    """Learning rate of Adam; with 1e-4 all methods lose greedy accuracy on the way."""
    warmup_steps: int = 10
    """Optimizer steps over which the learning rate rises to its value."""
    contexts: int = 64
    """Questions a batch, each answered group_size times."""
    steps_per_batch: int = 4
    """Optimizer steps on each batch of samples; the later ones give GRPO something to clip."""
    answer_tokens: int = 12
    """Answers are cut off after so many tokens."""
    context_tokens: int = 256
    """The longest prompt and answer together; a longer prompt is not answered, and counted as overlong."""
    validation_questions: int = 256
    """Questions that training never draws."""
    validation_samples: int = 8
    """Answers sampled to each of them, besides the greedy one."""
    validate_every: int = 5
    """Optimizer steps between validations; the last step is always validated."""
    packed: bool = False
    """Train on sequences packed one after another, without padding; the gradients are the same."""
    warm_start_steps: int = 600
    """Optimizer steps of the warm start; 0 starts from random weights."""
    flawed: float = 0.5
    """The share of the warm start's answers that are wrong."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = "contexts answer_tokens context_tokens validation_questions validation_samples".split()
        for name in names:
            self._require(name, getattr(self, name) >= 1, "at least 1")
        divisible = self.contexts % self.steps_per_batch == 0
        self._require("contexts", divisible, f"a multiple of steps_per_batch ({self.steps_per_batch})")
        self._require("answer_tokens", self.answer_tokens < self.context_tokens, "below context_tokens")
        self._require("warm_start_steps", self.warm_start_steps >= 0, "0 or more")
        self._require("flawed", 0 <= self.flawed <= 1, "between 0 and 1")

    @property
    def rung(self) -> str:
        return f"{self.tier}/{self.task}"


CONFIGS: dict[str, type[RunConfig]] = {config.tier: config for config in (BanditConfig, GymConfig, TransformerConfig)}


def to_json(config: RunConfig) -> dict[str, Any]:
    """The settings as stored in ``config.json``."""
    return {"tier": config.tier, **dataclasses.asdict(config)}


def from_json(stored: dict[str, Any]) -> RunConfig:
    """The settings that :func:`to_json` stored. Raises UsageError for an unknown rung or setting."""
    require_known("tier", stored.get("tier", ""), CONFIGS)
    config = CONFIGS[stored["tier"]]
    known = {field.name for field in dataclasses.fields(config)}
    for name in stored.keys() - {"tier"}:
        require_known("setting", name, known)
    return config(**{name: value for name, value in stored.items() if name != "tier"})
