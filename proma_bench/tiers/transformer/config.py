"""The settings of the transformer tier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from proma_bench.learning.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(RunConfig):
    """A tiny Qwen3 answers questions: a sequence is a generated answer, reward 1 when it is right.

    It begins from a supervised warm start on answers half of which are wrong, which is made once and then kept in
    PROMA_BENCH_CACHE (~/.cache/proma_bench unless set). Questions and scores are reasoning-gym's.
    """

    tier: ClassVar[str] = "transformer"
    implementation: ClassVar[str] = "proma_bench.tiers.transformer.tier:Transformer"
    height: ClassVar[int] = 3
    budgets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"steps": 4, "prompts": 8, "validation_questions": 32, "warm_start_steps": 10},
        "quick": {"steps": 40},
        "full": {"steps": 160},
    }
    sweep: ClassVar[dict[str, tuple[float, ...]]] = {
        "smoke": (5e-5, 1e-4),
        "quick": (5e-5,),
        "full": (2.5e-5, 5e-5, 1e-4),
    }
    score_metric: ClassVar[str] = "score_sampled"  # the greedy answers are good from the start

    task: str = "chain_sum"
    """Name of a reasoning-gym task: chain_sum (here of two or three one-digit terms), gcd, spell_backward, ..."""
    steps: int = 160
    """Optimizer steps."""
    learning_rate: float = 5e-5
    """Learning rate of Adam; with 1e-4 all methods lose greedy accuracy on the way."""
    warmup_steps: int = 10
    """Optimizer steps over which the learning rate rises to its value."""
    prompts: int = 64
    """Questions per batch, each answered group_size times."""
    steps_per_batch: int = 4
    """Optimizer steps on each batch of samples; the later ones give GRPO something to clip."""
    max_new_tokens: int = 12
    """Answers are cut off after so many tokens."""
    context_length: int = 256
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
        names = "prompts max_new_tokens context_length validation_questions validation_samples".split()
        self._require_positive(*names)
        self._require_whole_steps("prompts")
        self._require("max_new_tokens", self.max_new_tokens < self.context_length, "below context_length")
        self._require("warm_start_steps", self.warm_start_steps >= 0, "0 or more")
        self._require("flawed", 0 <= self.flawed <= 1, "between 0 and 1")

    @property
    def task_name(self) -> str:
        return self.task
