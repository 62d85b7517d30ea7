"""Batches and scores for tiers whose policy is a language model: it answers questions, and the answers are scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from proma_bench.language.policy import LanguagePolicy
from proma_bench.language.prompts import Prompting
from proma_bench.language.sampling import Rollout, Sampler, padded_left
from proma_bench.learning.experience import PADDING, Experience
from proma_bench.learning.policy import Generators
from proma_bench.tasks.questions import Lenient, Question, Questions


class Answers:
    """Samples answers to the questions of a task and scores them."""

    def __init__(self, task: Questions, prompting: Prompting, max_prompt_tokens: int) -> None:
        """Store the task and the form of the prompts.

        Args:
            task: the questions and their scoring.
            prompting: turns questions into prompts.
            max_prompt_tokens: longer prompts, including the prefix, get no answer and no reward.
        """
        self.task, self.prompting, self._longest_prompt = task, prompting, max_prompt_tokens

    def experience(
        self, policy: LanguagePolicy, sampler: Sampler, group_size: int, prompts: int, generators: Generators
    ) -> Experience:
        """Sample one batch for training.

        Args:
            policy: computes ``old_log_probs``; ``sampler_gaps`` compare the sampler's log-probabilities with them.
            sampler: samples the answers with the policy's weights.
            group_size: answers per question.
            prompts: number of training questions, drawn with replacement.
            generators: one for initial states (questions) and one for actions (tokens).

        Returns:
            The answers with their rewards.
        """
        drawn = torch.randint(len(self.task.training), (prompts,), generator=generators["initial_states"])
        questions = [self.task.training[index] for index in drawn.tolist()]
        rollout, overlong = self._ask(questions, sampler, group_size, generators["actions"])
        rewards, empty = self._score(questions, rollout, group_size)
        unanswerable = torch.tensor([not self.task.is_answerable(question) for question in questions])
        experience = Experience(
            observations=torch.cat([rollout.prompts, rollout.answers], dim=1),
            actions=rollout.answers.clamp_min(0),
            old_log_probs=torch.zeros_like(rollout.log_probs),
            rewards=rewards,
            mask=rollout.mask,
            flags={
                "empty": empty & ~overlong,
                "cut": ~rollout.finished & ~overlong,
                "overlong": overlong,
                "unanswerable": unanswerable.repeat_interleave(group_size),
            },
        )
        experience = experience.to(policy.model.device)
        own = policy.on(experience).log_prob(experience.actions)
        gaps = (own - rollout.log_probs.to(own.device)).abs()
        return dataclasses.replace(experience, old_log_probs=own, sampler_gaps=experience.per_sequence(gaps))

    def scores(
        self, sampler: Sampler, samples: int, questions: Sequence[Question] | None = None
    ) -> dict[str, float | None]:
        """Measure the share of right answers. The random numbers are the same in every call.

        Args:
            sampler: samples the answers.
            samples: number of sampled answers per question.
            questions: None takes the validation questions.

        Returns:
            ``score`` of greedy answers, ``score_sampled`` of sampled answers, and, if the task has a lenient score,
            ``score_lenient`` of greedy answers.
        """
        questions = self.task.validation if questions is None else questions
        greedy, _ = self._ask(questions, sampler, 1, None)
        scores: dict[str, float | None] = {"score": float(self._score(questions, greedy, 1)[0].mean())}
        if isinstance(self.task, Lenient):
            lenient = map(self.task.score_lenient, questions, self._texts(greedy))
            scores["score_lenient"] = sum(lenient) / len(questions)
        sampled, _ = self._ask(questions, sampler, samples, torch.Generator().manual_seed(0))
        return {**scores, "score_sampled": float(self._score(questions, sampled, samples)[0].mean())}

    def _ask(
        self, questions: Sequence[Question], sampler: Sampler, samples: int, generator: torch.Generator | None
    ) -> tuple[Rollout, Bool[Tensor, " R"]]:
        """Sample answers to questions.

        Returns:
            The answers, with prompts that do not contain the prefix; and whether each prompt is too long. The answer to
            such a prompt consists of padding.
        """
        prefix = self.prompting.prefix
        prompts = self.prompting.tokens(questions)
        fits = [0 < len(prompt) <= self._longest_prompt - len(prefix) for prompt in prompts]
        prompts = [
            prompt if fit else [min(self.prompting.stop_token_ids)] for prompt, fit in zip(prompts, fits, strict=True)
        ]
        rollout = sampler.sample([prefix + prompt for prompt in prompts], samples, generator)
        overlong = ~torch.tensor(fits).repeat_interleave(samples)
        answers = rollout.answers.masked_fill(overlong.unsqueeze(1), PADDING)
        return dataclasses.replace(
            rollout,
            prompts=padded_left(prompts).repeat_interleave(samples, 0),
            answers=answers,
            log_probs=rollout.log_probs.masked_fill(overlong.unsqueeze(1), 0.0),
        ), overlong

    def _score(
        self, questions: Sequence[Question], rollout: Rollout, samples: int
    ) -> tuple[Tensor, Bool[Tensor, " R"]]:
        """The reward of each answer, and whether it is empty."""
        texts = self._texts(rollout)
        rewards = [
            self.task.score(questions[row // samples], text) if text.strip() else 0.0 for row, text in enumerate(texts)
        ]
        return torch.tensor(rewards), torch.tensor([not text.strip() for text in texts])

    def _texts(self, rollout: Rollout) -> list[str]:
        texts: list[str] = self.prompting.tokenizer.batch_decode(
            [answer[answer != PADDING].tolist() for answer in rollout.answers], skip_special_tokens=True
        )
        return texts
