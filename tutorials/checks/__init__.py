"""The exercises' checks, one module a lesson. A check says what is wrong with an answer in the terms of its lesson.

A check is a function of the reader's answer, decorated with `exercise`. It returns what to say about a right answer,
and raises AssertionError with what is wrong about another one, best around an invariant of `proma_bench.testing`:

    @exercise
    def projection_of_two(answer):
        with saying("What is left still moves the policy on one of the two samples"):
            assert_orthogonal_to(answer, RUNNING, SEQ_GRADS)
        return "Nothing of the old step is seen by either sample."
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """What a check has to say. ``right`` is None while the exercise is not answered."""

    right: bool | None
    words: str

    def __repr__(self) -> str:
        return f"{_MARKS[self.right]} {self.words}"

    def _repr_markdown_(self) -> str:
        return f"**{_MARKS[self.right]}** {self.words}"


_MARKS = {True: "✓ Right.", False: "✗ Not yet.", None: "… Not answered yet."}


class Unanswered(BaseException):
    """The answer is still the ``...`` of the exercise; nothing that judges an answer may take that for a failure."""


def exercise(check: Callable[..., str]) -> Callable[..., Verdict]:
    """Make a check return a `Verdict`. What is ``...``, or a function that returns nothing, is not answered yet."""

    @functools.wraps(check)
    def judge(*answers: Any) -> Verdict:
        try:
            return Verdict(True, check(*map(_answered, answers)))
        except Unanswered:
            return Verdict(None, "Replace the `...` in the cell above and run it again.")
        except AssertionError as error:
            return Verdict(False, str(error))

    return judge


def _answered(answer: Any) -> Any:
    if answer is ...:
        raise Unanswered
    if not callable(answer):
        return answer

    @functools.wraps(answer)
    def called(*arguments: Any, **options: Any) -> Any:
        result = answer(*arguments, **options)
        if result is None or result is ...:
            raise Unanswered
        return result

    return called


@contextmanager
def saying(words: str) -> Iterator[None]:
    """Say it in the lesson's words when something in the block fails, with what was measured after them."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{words}. ({error})") from None
