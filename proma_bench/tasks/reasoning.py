"""Questions with verifiable answers, from `reasoning-gym <https://github.com/open-thought/reasoning-gym>`_."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import reasoning_gym
from reasoning_gym.factory import DATASETS

from proma_bench.errors import UsageError, require_known
from proma_bench.tasks.admission import is_admitted, is_read
from proma_bench.tasks.questions import Question
from proma_bench.tasks.worker import Worker

POOL = 6000
"""Number of questions that are generated per task, before duplicates are removed."""

SLOW = (
    {"knight_swap": 50, "futoshiki": 100, "sudoku": 1000}
    | dict.fromkeys("sokoban zebra_puzzles".split(), 250)
    | dict.fromkeys("intermediate_integration puzzle24 quantum_lock".split(), 600)
    | dict.fromkeys("countdown number_sequence polynomial_equations rearc rubiks_cube".split(), 2000)
    | dict.fromkeys("advanced_geometry game_of_life polynomial_multiplication simple_integration".split(), 3000)
)
"""Fewer questions for tasks that would need more than 20 seconds; at least twice as many as are for validation."""

PATIENCE = 3.0
"""Seconds until a line says that generating takes longer."""

EASY: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
    "gcd": {"max_value": 100},
    "basic_arithmetic": {"max_terms": 3, "max_digits": 1, "allow_parentheses": False},
    "spell_backward": {"max_word_len": 5},
}
"""Task settings for a very small model. Tasks that are not listed have the library's defaults."""


class Task:
    """The distinct questions of one task of reasoning-gym.

    Attributes:
        name: the name of the task.
        training: questions for training.
        validation: other questions, for validation.
    """

    def __init__(
        self,
        name: str,
        validation_questions: int,
        options: Mapping[str, Any] | None = None,
        *,
        shortened: bool = True,
        numbers_apart: bool = False,
    ) -> None:
        """Generate the questions.

        Args:
            name: the name of the task in reasoning-gym.
            validation_questions: number of questions for validation; the others are for training.
            options: the library's settings of the task; None takes those of `EASY`.
            shortened: remove the words with which all questions begin or end.
            numbers_apart: no training question contains the same numbers as a validation question, in any order.

        Raises:
            UsageError: the task is unknown, cannot be generated, or has too few distinct questions.
        """
        require_known("task", name, DATASETS)
        self.name = name
        options = EASY.get(name, {}) if options is None else options
        try:
            self._dataset = reasoning_gym.create_dataset(name, seed=0, size=POOL, **options)
            count = min(POOL, max(SLOW.get(name, POOL), 2 * validation_questions))
            entries = _entries(self._dataset, name, count)
        except Exception as error:  # some tasks need files or further packages
            raise UsageError(f"reasoning-gym cannot make the task {name}: {error}") from error
        module = DATASETS[name][0].__module__
        self._worker = None if is_read(name) else Worker(name, module, {"seed": 0, "size": POOL, **options})
        texts = _shortened(list(entries)) if shortened else list(entries)
        questions = [Question(text, entry) for text, entry in zip(texts, entries.values(), strict=True)]
        self.validation, self.training = _split(questions, validation_questions, numbers_apart)
        if not self.training:
            raise UsageError(
                f"the task {name} has {len(entries)} different questions; validation_questions must be fewer, "
                f"got {validation_questions}"
            )

    def score(self, question: Question, answer: str) -> float:
        """Score an answer. It never raises, whatever the answer contains.

        A scorer that is not known to be harmless runs in another process, without privileges (``docs/security.md``).

        Args:
            question: the question.
            answer: the answer of a model.

        Returns:
            1 for an answer with the library's full score, otherwise 0.

        Raises:
            RunError: that process cannot be started, which no answer can cause.
        """
        answer = answer.strip()
        if not is_admitted(self.name, answer, question.answer):
            return 0.0
        if self._worker is not None:
            return float(self._worker.is_right(question.entry, answer))
        return float(self._is_right(question.entry, answer))

    def is_answerable(self, question: Question) -> bool:
        """Whether the library's scorer accepts the library's own answer.

        Args:
            question: the question.
        """
        return question.answer is not None and self._is_right(question.entry, question.answer.strip())

    def _is_right(self, entry: dict[str, Any], answer: str) -> bool:
        """Score in this process: an answer of the library, or a scorer that was read."""
        try:
            return bool(self._dataset.score_answer(answer, entry) >= 1)
        except Exception:  # the library's scorers can fail on the text of a model
            return False

    @cached_property
    def demonstrations(self) -> list[tuple[str, str]]:
        """Pairs of a training question and its answer, for all that have one."""
        return [
            (question.text, question.answer)
            for question in self.training
            if question.answer is not None and self.is_answerable(question)
        ]


def _entries(dataset: Iterable[dict[str, Any]], name: str, count: int) -> dict[str, dict[str, Any]]:
    """The first ``count`` records, by their question.

    What the library prints meanwhile is not shown. Its task codeio runs programs that write files where they run: here
    in a directory that is removed, so that no file of the user is overwritten.
    """
    entries, began, told, terminal = dict[str, dict[str, Any]](), time.monotonic(), False, sys.stderr
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        tempfile.TemporaryDirectory(prefix="proma-bench-", ignore_cleanup_errors=True) as directory,
        contextlib.chdir(directory),
    ):
        for number, entry in enumerate(itertools.islice(dataset, count), 1):
            entries[entry["question"]] = entry
            seconds = time.monotonic() - began
            if seconds > PATIENCE and not told:
                left = seconds / number * (count - number)
                print(f"making {count:,} questions of {name}: about {left:.0f} more seconds", file=terminal, flush=True)
                told = True
    return entries


def _split(questions: list[Question], count: int, numbers_apart: bool) -> tuple[list[Question], list[Question]]:
    """Split into ``count`` questions for validation and the others for training.

    With ``numbers_apart``, questions with the same numbers are either all used for training or not at all. They are
    shuffled before, because the first questions are mostly easy, and there are only a few easy ones.
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
    return validation[:count], [question for group in groups for question in group]


def _numbers(question: Question) -> tuple[str, ...]:
    """The numbers in a question, sorted; the text of the question if it has none."""
    return tuple(sorted(re.findall(r"[0-9]+", question.text))) or (question.text,)


def _shortened(texts: list[str]) -> list[str]:
    """The questions without the words with which all of them begin or end, and without their common punctuation."""
    words = [text.split(" ") for text in texts]
    start = _in_common(words)
    end = _in_common([line[:start:-1] for line in words])
    shorter = [" ".join(line[start : len(line) - end]) for line in words]
    signs = [itertools.takewhile(lambda sign: not sign.isalnum(), reversed(text)) for text in shorter]
    end = _in_common(map(list, signs))
    return [text[: len(text) - end] for text in shorter]


def _in_common(lines: Iterable[Sequence[str]]) -> int:
    """The number of words, or characters, that all lines have in common at the beginning."""
    same = (len(set(column)) == 1 for column in zip(*lines, strict=False))
    return sum(itertools.takewhile(bool, same))
