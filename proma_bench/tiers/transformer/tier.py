"""The third tier: a tiny Qwen3 answers the questions of a reasoning-gym task. Its class is that of the large model.

An initial state is a question, and a sequence is a generated answer with the token that ends it. The reward is 1 if the
library gives the full score, otherwise 0. Runs of all seeds begin with the same warm start, see
`proma_bench.language.warm_start`. The common words of all questions of a task (``State the final answer to ...``) are
removed, because most of the computation would be spent on them.
"""

from __future__ import annotations

import copy

import torch

from proma_bench.language.answers import Answers
from proma_bench.language.models import byte_tokenizer, tiny_qwen3
from proma_bench.language.policy import LanguagePolicy
from proma_bench.language.prompts import Line
from proma_bench.language.sampling.huggingface import HuggingFaceSampler
from proma_bench.language.warm_start import warm_start
from proma_bench.learning.experience import Experience
from proma_bench.learning.policy import Generators, Policy
from proma_bench.tasks.reasoning import Task
from proma_bench.tiers.transformer.config import TransformerConfig


class Transformer:
    """A task, a tokenizer, and the initial model of all runs."""

    def __init__(self, config: TransformerConfig) -> None:
        """Generate the questions and load the warm start, or train it if it is not in the cache.

        Args:
            config: the settings of the run.

        Raises:
            UsageError: the task is unknown, cannot be generated, or has no answers for the warm start.
        """
        self.config = config
        tokenizer = byte_tokenizer()
        self.task = Task(config.task, config.validation_questions)
        self.answers = Answers(self.task, Line(tokenizer), config.context_length - config.max_new_tokens)
        self._end = int(tokenizer.eos_token_id)
        self._model = tiny_qwen3(len(tokenizer), config.context_length, config.warm_start_seed)
        if config.warm_start_steps:
            warm_start(
                self._model, self.task, tokenizer, config.warm_start_steps, config.flawed, config.warm_start_seed
            )

    def policy(self, generator: torch.Generator) -> Policy:
        """Make the initial policy, which is the warm start.

        Args:
            generator: not used.

        Returns:
            The policy.
        """
        return LanguagePolicy(copy.deepcopy(self._model), self.config.packed)

    def sample(self, policy: LanguagePolicy, generators: Generators) -> Experience:
        sampler = self._sampler(policy)
        with torch.no_grad():
            return self.answers.experience(policy, sampler, self.config.group_size, self.config.prompts, generators)

    def evaluate(self, policy: LanguagePolicy) -> dict[str, float | None]:
        return self.answers.scores(self._sampler(policy), self.config.validation_samples)

    def _sampler(self, policy: LanguagePolicy) -> HuggingFaceSampler:
        return HuggingFaceSampler(policy.model, [self._end], self.config.max_new_tokens)
