"""Questions with verifiable answers, from `reasoning-gym <https://github.com/open-thought/reasoning-gym>`_."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import reasoning_gym
from reasoning_gym.factory import DATASETS

from proma_bench.errors import UsageError, require_known
from proma_bench.tasks.questions import Question

POOL = 6000
"""Questions that are drawn, once, before duplicates go."""

EASY: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
    "gcd": {"max_value": 100},
    "basic_arithmetic": {"max_terms": 3, "max_digits": 1, "allow_parentheses": False},
    "spell_backward": {"max_word_len": 5},
}
"""Difficulties for a very small model; other tasks are as the library has them."""


class Task:
    """The distinct questions of one task; validation and training have none in common."""

    def __init__(
        self,
        name: str,
        validation_questions: int,
        options: Mapping[str, Any] | None = None,
        *,
        shortened: bool = True,
        numbers_apart: bool = False,
    ) -> None:
        """Draw the questions.

        Args:
            options: the library's settings of the task; None is a difficulty for a very small model.
            shortened: leave out the words that all questions begin and end with.
            numbers_apart: no training question has the same numbers as a validation question, in whatever order.

        Raises:
            UsageError: the task is unknown, or has too few distinct questions.
        """
        require_known("task", name, DATASETS)
        self.name = name
        options = EASY.get(name, {}) if options is None else options
        try:
            self._dataset = reasoning_gym.create_dataset(name, seed=0, size=POOL, **options)
            entries = {entry["question"]: entry for entry in self._dataset}
        except Exception as error:  # some tasks need files or packages of their own
            raise UsageError(f"reasoning-gym cannot make the task {name}: {error}") from error
        texts = _shortened(list(entries)) if shortened else list(entries)
        questions = [Question(text, entry) for text, entry in zip(texts, entries.values(), strict=True)]
        self.validation, self.training = _split(questions, validation_questions, numbers_apart)
        if not self.training:
            raise UsageError(
                f"the task {name} has {len(entries)} different questions; validation_questions must be fewer, "
                f"got {validation_questions}"
            )

    def score(self, question: Question, answer: str) -> float:
        """1 for an answer to which the library gives its full score, else 0, whatever the answer holds."""
        try:
            return float(self._dataset.score_answer(answer.strip(), question.entry) >= 1)
        except Exception:  # the library's scorers parse what a model wrote
            return 0.0

    def is_answerable(self, question: Question) -> bool:
        """Whether the library's own answer is right by its own scorer."""
        return question.answer is not None and self.score(question, question.answer) == 1

    @cached_property
    def demonstrations(self) -> list[tuple[str, str]]:
        """Training questions that have an answer, with it."""
        return [
            (question.text, question.answer)
            for question in self.training
            if question.answer is not None and self.is_answerable(question)
        ]


def _split(questions: list[Question], count: int, numbers_apart: bool) -> tuple[list[Question], list[Question]]:
    """``count`` questions and the rest; questions with the same numbers stay together if these must be apart.

    In that case they are shuffled first: the first to be drawn are the easy ones, of which there are few.
    """
    if not numbers_apart:
        return questions[:count], questions[count:]
    together: dict[tuple[str, ...], list[Question]] = {}
    for question in questions:
        together.setdefault(_numbers(question), []).append(question)
    groups = list(together.values())
    random.Random(0).shuffle(groups)
    validation = list[Question]()
    while groups and len(validation) < count:
        validation += groups.pop()
    return validation[:count], [question for alike in groups for question in alike]


def _numbers(question: Question) -> tuple[str, ...]:
    """Sorted; where there are none, the question itself."""
    return tuple(sorted(re.findall(r"[0-9]+", question.text))) or (question.text,)


def _shortened(texts: list[str]) -> list[str]:
    """The questions without the words, and the signs at the end, that all of them begin and end with."""
    words = [text.split(" ") for text in texts]
    start = _in_common(words)
    end = _in_common([line[:start:-1] for line in words])
    shorter = [" ".join(line[start : len(line) - end]) for line in words]
    signs = [itertools.takewhile(lambda sign: not sign.isalnum(), reversed(text)) for text in shorter]
    end = _in_common(map(list, signs))
    return [text[: len(text) - end] for text in shorter]


def _in_common(lines: Iterable[Sequence[str]]) -> int:
    """How many words, or signs, all lines begin with."""
    same = (len(set(column)) == 1 for column in zip(*lines, strict=False))
    return sum(itertools.takewhile(bool, same))
