"""The llm tier without files or a network: random weights of any size, and questions that need no answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from proma_bench.language.answers import Answers
from proma_bench.language.models import byte_tokenizer, checkpoint_layers
from proma_bench.language.policy import LanguagePolicy
from proma_bench.language.prompts import Line
from proma_bench.language.sampling.huggingface import HuggingFaceSampler
from proma_bench.learning.experience import Experience
from proma_bench.learning.policy import Generators, Policy
from proma_bench.tasks.questions import Question
from proma_bench.tiers.llm.config import LLMConfig


@dataclass(frozen=True, kw_only=True)
class RandomLLMConfig(LLMConfig):
    """The llm tier's settings, and the sizes of the model."""

    implementation: ClassVar[str] = "benchmarks.random_llm:RandomLLM"

    sizes: dict[str, Any] = field(default_factory=dict)
    """Settings of `Qwen3Config`."""


def random_llm(sizes: dict[str, Any], answer: int, small: bool) -> RandomLLMConfig:
    """Two optimizer steps, with microbatches and precision as in the paper's run."""
    return RandomLLMConfig(
        sizes=sizes, steps=2, prompts=4 if small else 16, group_size=2 if small else 8, max_prompt_tokens=64,
        microbatch_size=2 if small else 8, max_new_tokens=answer, validation_questions=2 if small else 16,
        validate_every=2, steps_per_batch=2, method="proma",
    )  # fmt: skip


class Parity:
    """Every answer with an even number of characters is right, so that half of the random ones are."""

    def __init__(self, count: int) -> None:
        texts = [f"{number} + {number + 1} =" for number in range(2 * count)]
        questions = [Question(text, {"answer": None}) for text in texts]
        self.training, self.validation = questions[:count], questions[count:]

    def score(self, question: Question, answer: str) -> float:
        return float(len(answer) % 2 == 0)

    def is_answerable(self, question: Question) -> bool:
        return True


class RandomLLM:
    """The tier: rollouts, scores and updates as in `proma_bench.tiers.llm`."""

    def __init__(self, config: RandomLLMConfig) -> None:
        self.config = config
        self._prompting = Line(byte_tokenizer())
        self.answers = Answers(Parity(config.validation_questions), self._prompting, config.max_prompt_tokens)

    def policy(self, generator: torch.Generator) -> Policy:
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = Qwen3ForCausalLM(Qwen3Config(**self.config.sizes, tie_word_embeddings=True))
        checkpoint_layers(model)
        self._sampler = HuggingFaceSampler(
            model, self._prompting.stop_token_ids, self.config.max_new_tokens, dtype=torch.bfloat16
        )
        return LanguagePolicy(model, dtype=torch.bfloat16)

    def sample(self, policy: LanguagePolicy, generators: Generators) -> Experience:
        with torch.no_grad():
            return self.answers.experience(
                policy, self._sampler, self.config.group_size, self.config.prompts, generators
            )

    def evaluate(self, policy: LanguagePolicy) -> dict[str, Any]:
        return self.answers.scores(self._sampler, self.config.validation_samples)
