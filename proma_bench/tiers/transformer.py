"""The third rung: a tiny Qwen3, the class of the big one, answers questions of reasoning-gym.

A context is a question, a sequence a generated answer with the token that ends it, its reward 1 if the library gives
it the full score. All runs begin from one warm start, see :mod:`proma_bench.warm_start`. What questions of a task have
in common (``State the final answer to ...``) is left out: reading it would be most of the work.
"""

from __future__ import annotations

import copy

import torch

from proma_bench.config import TransformerConfig
from proma_bench.experience import Experience
from proma_bench.language import LanguagePolicy
from proma_bench.models import byte_tokenizer, tiny_qwen3
from proma_bench.prompts import Line
from proma_bench.rollout.huggingface import HuggingFaceSampler
from proma_bench.tasks import Task
from proma_bench.text import Answers
from proma_bench.tiers import Generators, Policy
from proma_bench.warm_start import warm_start


class Transformer:
    """A task, a tokenizer, and the model that all runs begin with."""

    def __init__(self, config: TransformerConfig) -> None:
        """Raises UsageError for a task that is unknown or cannot be made. Makes the warm start where there is none."""
        self.config = config
        tokenizer = byte_tokenizer()
        self.task = Task(config.task, config.validation_questions)
        self.answers = Answers(self.task, Line(tokenizer), config.context_tokens - config.answer_tokens)
        self._end = int(tokenizer.eos_token_id)
        self._model = tiny_qwen3(len(tokenizer), config.context_tokens)
        if config.warm_start_steps:
            warm_start(self._model, self.task, tokenizer, config.warm_start_steps, config.flawed)

    def policy(self, generator: torch.Generator) -> Policy:
        """The warm start, the same for every generator."""
        return LanguagePolicy(copy.deepcopy(self._model), self.config.packed)

    def sample(self, policy: LanguagePolicy, generators: Generators) -> Experience:
        sampler = self._sampler(policy)
        with torch.no_grad():
            return self.answers.experience(policy, sampler, self.config.group_size, self.config.contexts, generators)

    def evaluate(self, policy: LanguagePolicy) -> dict[str, float | None]:
        return self.answers.scores(self._sampler(policy), self.config.validation_samples)

    def _sampler(self, policy: LanguagePolicy) -> HuggingFaceSampler:
        return HuggingFaceSampler(policy.model, [self._end], self.config.answer_tokens)
