"""What the rungs have in common whose policy is a language model: questions in, scored answers out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from proma_bench.experience import PADDING, Experience
from proma_bench.language import LanguagePolicy
from proma_bench.objectives import group_advantages
from proma_bench.rollout import Rollout, Sampler
from proma_bench.tasks import Question, Task
from proma_bench.tiers import Generators


class Answers:
    """Asks, and scores what comes back.

    context_tokens: of the prompt and the longest answer together. A longer prompt gets no answer and no reward.
    """

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, answer_tokens: int, context_tokens: int) -> None:
        self.task, self._tokenizer = task, tokenizer
        self._longest_prompt = context_tokens - answer_tokens

    def experience(
        self, policy: LanguagePolicy, sampler: Sampler, group_size: int, contexts: int, generators: Generators
    ) -> Experience:
        """One batch: ``group_size`` answers to each of ``contexts`` training questions, drawn with replacement.

        ``old_log_probs`` are the policy's own, which a sampler's need not equal to the last digit.
        """
        drawn = torch.randint(len(self.task.training), (contexts,), generator=generators["contexts"])
        questions = [self.task.training[index] for index in drawn.tolist()]
        rollout, overlong = self._ask(questions, sampler, group_size, generators["actions"])
        rewards, empty = self._score(questions, rollout, group_size)
        unanswerable = torch.tensor([not self.task.is_answerable(question) for question in questions])
        experience = Experience(
            observations=torch.cat([rollout.prompts, rollout.answers], dim=1),
            actions=rollout.answers.clamp_min(0),
            old_log_probs=torch.zeros_like(rollout.log_probs),
            rewards=rewards,
            advantages=group_advantages(rewards, group_size),
            mask=rollout.mask,
            marks={
                "empty": empty & ~overlong,
                "cut": ~rollout.finished & ~overlong,
                "overlong": overlong,
                "unanswerable": unanswerable.repeat_interleave(group_size),
            },
        )
        return dataclasses.replace(experience, old_log_probs=policy.on(experience).log_prob(experience.actions))

    def accuracy(self, sampler: Sampler, samples: int, generator: torch.Generator | None) -> float:
        """The share of right answers to the validation questions: greedy ones for no generator."""
        rollout, _ = self._ask(self.task.validation, sampler, samples, generator)
        rewards, _ = self._score(self.task.validation, rollout, samples)
        return float(rewards.mean())

    def _ask(
        self, questions: Sequence[Question], sampler: Sampler, samples: int, generator: torch.Generator | None
    ) -> tuple[Rollout, Bool[Tensor, " R"]]:
        """Answers, and which prompts are longer than the context; these have nothing but padding for an answer."""
        prompts = self._tokenizer([prompt_of(question.text) for question in questions], add_special_tokens=False)[
            "input_ids"
        ]
        fits = [0 < len(prompt) <= self._longest_prompt for prompt in prompts]
        end = [self._tokenizer.eos_token_id]
        rollout = sampler.sample(
            [prompt if fit else end for prompt, fit in zip(prompts, fits, strict=True)], samples, generator
        )
        overlong = ~torch.tensor(fits).repeat_interleave(samples)
        answers = rollout.answers.masked_fill(overlong.unsqueeze(1), PADDING)
        return dataclasses.replace(rollout, answers=answers), overlong

    def _score(
        self, questions: Sequence[Question], rollout: Rollout, samples: int
    ) -> tuple[Tensor, Bool[Tensor, " R"]]:
        """Rewards [R], and which answers are empty."""
        texts = self._tokenizer.batch_decode(
            [answer[answer != PADDING].tolist() for answer in rollout.answers], skip_special_tokens=True
        )
        rewards = [
            self.task.score(questions[row // samples], text) if text.strip() else 0.0 for row, text in enumerate(texts)
        ]
        return torch.tensor(rewards), torch.tensor([not text.strip() for text in texts])


def prompt_of(question: str) -> str:
    """What the model reads; the answer begins after the line."""
    return f"{question}\n"
