"""Questions with verifiable answers, whatever they are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        text: what is asked.
        entry: the library's record of it.
    """

    text: str
    entry: dict[str, Any]

    @property
    def answer(self) -> str | None:
        """An answer that the library gives; some questions have none."""
        return self.entry["answer"]


@runtime_checkable
class Questions(Protocol):
    """What is asked, and what an answer is worth. Training and validation have no question in common."""

    training: list[Question]
    validation: list[Question]

    def score(self, question: Question, answer: str) -> float:
        """1 for a right answer, else 0, whatever the answer holds."""

    def is_answerable(self, question: Question) -> bool:
        """Whether any answer would be right."""


@runtime_checkable
class Lenient(Protocol):
    """Questions whose answers are scored in a second way, which does not insist on the form."""

    def score_lenient(self, question: Question, answer: str) -> float:
        """1 for an answer that says the right thing in any form, else 0."""
