"""The interface of tasks: questions with verifiable answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        text: the text of the question.
        entry: its record in the data set.
    """

    text: str
    entry: dict[str, Any]

    @property
    def answer(self) -> str | None:
        """The answer in the data set; None if it has none."""
        return self.entry["answer"]


@runtime_checkable
class Questions(Protocol):
    """Questions for training and validation, and the scoring of answers.

    Attributes:
        training: questions for training.
        validation: other questions, for validation.
    """

    training: list[Question]
    validation: list[Question]

    def score(self, question: Question, answer: str) -> float:
        """Score an answer. It never raises, whatever the answer contains.

        Args:
            question: the question.
            answer: the answer of a model.

        Returns:
            1 for a right answer, otherwise 0.
        """

    def is_answerable(self, question: Question) -> bool:
        """Whether a right answer to the question exists.

        Args:
            question: the question.
        """


@runtime_checkable
class Lenient(Protocol):
    """Questions with a second score, which does not depend on the form of the answer."""

    def score_lenient(self, question: Question, answer: str) -> float:
        """Score an answer in any form.

        Args:
            question: the question.
            answer: the answer of a model.

        Returns:
            1 for an answer that is right in any form, otherwise 0.
        """
