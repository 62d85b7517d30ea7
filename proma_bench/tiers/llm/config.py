"""The settings of the llm tier."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from proma_bench.errors import require_known
from proma_bench.learning.config import RunConfig

PINNED = {"Qwen/Qwen3-0.6B": "c1899de289a04d12100db370d81485cdf75e47ca"}
"""The default commits of models on the hub."""
LARGEST_GAP = {"float32": 1e-3, "bfloat16": 0.05}
"""Largest mean difference between the sampler's log-probs and the trainer's, in nats per token, due to rounding."""
STOPPING_GAP = 0.25
"""The mean difference above which a run stops. Samplers in bfloat16 reach some hundredths; a distribution without a
model's scale or cap on logits is at several tenths or at some nats."""
SMOKE_RUN = "smoke-run"
"""The task in the title of a run with the model `TINY`."""
TINY = "tiny-random"
"""The name of an untrained model that needs no download. It only shows that the code works."""


@dataclass(frozen=True, kw_only=True)
class LLMConfig(RunConfig):
    """A pretrained language model solves problems: a sequence is a generated solution, with reward 1 if it is right.

    The defaults are those of the paper's run, Qwen3-0.6B on GSM8K, and need one GPU. On a CPU, a smaller model (--model
    DIRECTORY) can learn an easier task (--task chain_sum, or another task of reasoning-gym).
    """

    tier: ClassVar[str] = "llm"
    implementation: ClassVar[str] = "proma_bench.tiers.llm.tier:LLM"
    height: ClassVar[int] = 4
    budgets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"steps": 20},
        "quick": {"steps": 100},
        "full": {},
    }
    sweep: ClassVar[dict[str, tuple[float, ...]]] = {"smoke": (2e-6,), "quick": (2e-6,), "full": (2e-6,)}
    smoke_run: ClassVar[dict[str, Any]] = {
        "model": TINY, "task": "chain_sum", "steps": 2, "prompts": 4, "group_size": 2, "max_prompt_tokens": 200,
        "max_new_tokens": 4, "validation_questions": 4,
    }  # fmt: skip
    """The settings of the ladder without a GPU and without a model. They only show that the code works."""
    on_cpu: ClassVar[dict[str, Any]] = {
        "task": "basic_arithmetic", "few_shot": 4, "few_shot_template": "Sum: {question} = {answer}\n", "steps": 40,
        "task_options": {
            "min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2, "operators": "+",
            "allow_parentheses": False, "allow_negation": False,
        },
        "prompts": 16, "warmup_steps": 4, "validate_every": 20, "max_new_tokens": 6, "dtype": "float32",
        "gradient_checkpointing": False, "constant_few_shot": True,
    }  # fmt: skip
    """The settings of the ladder for a small model on a CPU: sums of two numbers, after four solved examples."""
    threads: ClassVar[int | None] = None

    model: str = "Qwen/Qwen3-0.6B"
    """Name on the Hugging Face hub, or a directory, with weights in safetensors; tiny-random is for a smoke run."""
    revision: str | None = None
    """Commit, tag or branch on the hub; None is a fixed commit for Qwen/Qwen3-0.6B, and main for other models."""
    task: str = "gsm8k"
    """gsm8k, or the name of a reasoning-gym task: chain_sum, gcd, basic_arithmetic, ..."""
    task_options: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Settings of a reasoning-gym task, for example: min_terms 2 max_terms 2 min_digits 1 max_digits 2."""
    data: str | None = None
    """GSM8K only: a directory with train.jsonl and test.jsonl, or `synthetic`; None is openai/gsm8k on the hub."""
    steps: int = 300
    """Optimizer steps."""
    learning_rate: float = 2e-6
    """Learning rate of AdamW (the paper: 2e-6)."""
    weight_decay: float = 0.01
    """Weight decay, decoupled from the gradient as in AdamW; 0 is plain Adam."""
    prompts: int = 128
    """Problems per batch; group_size solutions are sampled to each (the paper: 128)."""
    max_prompt_tokens: int = 512
    """Largest length of prompts, in tokens. Longer ones get no answer and count as overlong (the paper: 512)."""
    max_new_tokens: int = 2048
    """Number of tokens after which answers are cut off (the paper: 2048)."""
    validation_questions: int = 256
    """Number of validation problems. In reasoning-gym tasks, none has the same numbers as a training problem."""
    validation_samples: int = 1
    """Answers sampled to each validation problem, in addition to the greedy one."""
    validate_every: int = 5
    """Optimizer steps between validations; the last step is always validated."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of matrix products. Weights, gradients and the optimizer's moments are always float32."""
    gradient_checkpointing: bool = True
    """Compute the activations of each layer again in the backward pass, instead of storing them."""
    thinking: bool = False
    """Let the model think before it answers, if its chat template has this option."""
    few_shot: int = 0
    """For base models: number of solved problems at the beginning of plain text prompts; 0 uses the chat template."""
    few_shot_template: str = "Question: {question}\nAnswer: {answer}\n"
    """The form of a problem in plain text. Answers end at the end of the line."""
    constant_few_shot: bool = False
    """Treat the keys and values of the solved problems as constants in training: faster, but not exact."""
    sampler: Literal["auto", "huggingface", "vllm"] = "auto"
    """Library that generates answers: transformers or vLLM; auto is vLLM if it is installed and there is a GPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = "prompts max_prompt_tokens max_new_tokens validation_questions validation_samples".split()
        self._require_positive(*names)
        self._require_whole_steps("prompts")
        require_known("dtype", self.dtype, ("bfloat16", "float32"))
        require_known("sampler", self.sampler, ("auto", "huggingface", "vllm"))
        self._require("few_shot", self.few_shot >= 0, "0 or more")
        self._require("thinking", not (self.thinking and self.few_shot), "off with few_shot, which has no chat")
        whole = self.few_shot_template.count("{question}") == 1 and self.few_shot_template.endswith("{answer}\n")
        self._require("few_shot_template", whole, "a text with {question} that ends with {answer} and a new line")
        possible = not (self.constant_few_shot and self.gradient_checkpointing)
        self._require("constant_few_shot", possible, "off unless gradient_checkpointing is off")
        self._require("task_options", self.task != "gsm8k" or not self.task_options, "empty for gsm8k")
        self._require("data", self.task == "gsm8k" or self.data is None, "left out unless the task is gsm8k")

    def remark(self, metrics: dict[str, Any]) -> str | None:
        gap, largest = metrics["sampler_gap"], LARGEST_GAP[self.dtype]
        if gap <= largest:
            return None
        return (
            f"step {metrics['step']}: the sampler's log-probs are {gap:.2g} from the trainer's on average, but "
            f"rounding explains only {largest:g} (sampler_gap): the answers are not exactly those of the trained policy"
        )

    @classmethod
    def ladder_settings(cls, budget: str, model: str | None, has_gpu: bool) -> dict[str, Any]:
        """The settings of the ladder's runs: with a GPU the paper's run, on a CPU sums, or without a model a smoke run.

        Args:
            budget: one of `BUDGETS`.
            model: the value of the ladder's option ``--model``.
            has_gpu: whether there is a GPU.

        Returns:
            Settings by name, where they differ from the defaults.
        """
        if has_gpu:
            return cls.budgets[budget] if model is None else {**cls.budgets[budget], "model": model}
        return cls.smoke_run if model is None else {**cls.on_cpu, "model": model}

    @property
    def task_name(self) -> str:
        return SMOKE_RUN if self.is_smoke_run else self.task

    @property
    def is_smoke_run(self) -> bool:
        return self.model == TINY

    @property
    def has_test_set(self) -> bool:
        return self.task == "gsm8k"
