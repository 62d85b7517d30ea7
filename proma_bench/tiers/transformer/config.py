"""The settings of the transformer tier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from proma_bench.learning.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(RunConfig):
    """A tiny Qwen3 answers questions: a sequence is a generated answer, with reward 1 if it is right.

    Training begins with a supervised warm start, half of whose answers are wrong. It is computed once and stored in
    PROMA_BENCH_CACHE (by default ~/.cache/proma_bench). Questions and scores are those of reasoning-gym.
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
    """Name of a reasoning-gym task: chain_sum (here with two or three one-digit terms), gcd, spell_backward, ..."""
    steps: int = 160
    """Optimizer steps."""
    learning_rate: float = 5e-5
    """Learning rate of Adam. With 1e-4, all methods lose greedy accuracy during training."""
    warmup_steps: int = 10
    """Optimizer steps in which the learning rate rises linearly to its full value."""
    prompts: int = 64
    """Questions per batch; group_size answers are sampled to each."""
    steps_per_batch: int = 4
    """Optimizer steps on each batch of samples. GRPO clips only after the first of them."""
    max_new_tokens: int = 12
    """Number of tokens after which answers are cut off."""
    context_length: int = 256
    """Largest length of prompt and answer together, in tokens. Longer prompts get no answer and count as overlong."""
    validation_questions: int = 256
    """Number of validation questions, which training never draws."""
    validation_samples: int = 8
    """Answers sampled to each validation question, in addition to the greedy one."""
    validate_every: int = 5
    """Optimizer steps between validations; the last step is always validated."""
    packed: bool = False
    """Train on concatenated sequences without padding; the gradients are the same."""
    warm_start_steps: int = 600
    """Optimizer steps of the warm start; 0 starts from random weights."""
    warm_start_seed: int = 0
    """Seed of the weights before the warm start, and of its demonstrations. Runs of all seeds begin with the same."""
    flawed: float = 0.5
    """The share of wrong answers in the warm start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = "prompts max_new_tokens context_length validation_questions validation_samples".split()
        self._require_positive(*names)
        self._require_whole_steps("prompts")
        self._require("max_new_tokens", self.max_new_tokens < self.context_length, "below context_length")
        for name in ("warm_start_steps", "warm_start_seed"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("flawed", 0 <= self.flawed <= 1, "between 0 and 1")

    @property
    def task_name(self) -> str:
        return self.task
