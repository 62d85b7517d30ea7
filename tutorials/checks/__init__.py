"""The exercises' checks, one module a lesson. A check says what is wrong with an answer in the terms of its lesson.

A check is a function of the reader's answer, decorated with `exercise`. It returns what to say about a right answer,
and raises AssertionError with what is wrong about another one, best around an invariant of `proma_bench.testing`:

    @exercise
    def projection_of_two(answer):
        with saying("What is left still moves the policy on one of the two samples"):
            assert_orthogonal_to(answer, RUNNING, SEQ_GRADS)
        return "Nothing of the old step is seen by either sample."

An answer that is a function gets copies of its arguments, so it may work in place. Where it raises an exception or
returns nothing, that is what is wrong with it, and nothing is said before it. Draw the tensors of a check from one
`normal`: no two of them are alike.
"""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import textwrap
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


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
    """The answer is still the ``...`` of the exercise. No `except Exception` may take it for a failure."""


class Failed(AssertionError):
    """The reader's function gave no result, so what a check was about to say of the result does not apply."""


class ReturnedNothing(Failed):
    """The reader's function returned None."""

    def __init__(self) -> None:
        super().__init__("Your function returns nothing. Is there a `return` in it?")


class Raised(Failed):
    """The reader's function raised an exception.

    Attributes:
        error: the exception.
    """

    def __init__(self, error: Exception, function: Callable[..., Any]) -> None:
        self.error = error
        words = " ".join(str(error).split())
        words = f": {words[:200]}" if words else ""
        super().__init__(f"Your function raises {type(error).__name__}{words}{_line_of(error, function)}")


def exercise(check: Callable[..., str] | None = None, *, none_is_an_answer: bool = False) -> Any:
    """Make a check return a `Verdict`.

    Args:
        check: the function of the reader's answer, or answers.
        none_is_an_answer: whether a function that is asked for may return None.
    """
    if check is None:
        return functools.partial(exercise, none_is_an_answer=none_is_an_answer)

    @functools.wraps(check)
    def judge(*answers: Any) -> Verdict:
        try:
            return Verdict(True, check(*(_answered(answer, none_is_an_answer) for answer in answers)))
        except Unanswered:
            return Verdict(None, "Replace the `...` in the cell above and run it again.")
        except AssertionError as error:
            return Verdict(False, str(error))
        except Exception as error:
            if failed := _failed_within(error):
                return Verdict(False, str(failed))
            # an answer of a kind that nobody thought of
            said = f"{type(error).__name__}: {error}"
            return Verdict(False, f"The check cannot make sense of this answer ({said}). Is it what is asked for?")

    return judge


def _failed_within(error: BaseException | None) -> Failed | None:
    """What the reader's function did wrong, where somebody else has made another exception of it."""
    while error is not None and not isinstance(error, Failed):
        error = error.__cause__ or error.__context__
    return error


def _answered(answer: Any, none_is_an_answer: bool) -> Any:
    if answer is ... or _is_stub(answer):
        raise Unanswered
    assert answer is not None, "Your answer is None."
    if not callable(answer) or isinstance(answer, type):
        return answer

    @functools.wraps(answer)
    def called(*arguments: Any, **options: Any) -> Any:
        try:
            result = answer(*map(_copied, arguments), **options)
        except Exception as error:
            raise Raised(error, answer) from None
        if result is ...:
            raise Unanswered
        if result is None and not none_is_an_answer:
            raise ReturnedNothing
        return result

    return called


def _is_stub(answer: Any) -> bool:
    """Whether the ``...`` of the exercise is still a statement of the function."""
    if not inspect.isfunction(answer):
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(answer)))
    except (OSError, SyntaxError):  # there is no source, or it is a lambda within an expression
        return False
    (first, *_) = tree.body
    return isinstance(first, ast.FunctionDef) and any(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is ...
        for node in ast.walk(first)
    )


def _copied(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.clone()
    if isinstance(argument, tuple):
        return tuple(map(_copied, argument))
    return copy.deepcopy(argument) if isinstance(argument, np.ndarray | dict | list) else argument


def _line_of(error: Exception, function: Callable[..., Any]) -> str:
    """The last line of the reader's that was at work, in words."""
    file = inspect.getfile(code) if (code := getattr(function, "__code__", None)) else None
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", in the line `{lines[-1]}`" if lines and lines[-1] else ""


# ------------------------------------------------------------------------------------------------ predictions


@dataclass(frozen=True)
class Outcome:
    """What came of an experiment whose outcome the reader has guessed, or not."""

    guess: Any
    came_out: str
    words: str

    def __repr__(self) -> str:
        return f"{self._beginning()} {self.words}"

    def _repr_markdown_(self) -> str:
        return f"**{self._beginning()}** {self.words}"

    def _beginning(self) -> str:
        if self.guess is ...:
            return f"You made no guess. It is ({self.came_out})."
        if str(self.guess).strip("() ").lower() == self.came_out:
            return f"You guessed ({self.came_out}), and so it is."
        return f"You guessed ({self.guess}), but it is ({self.came_out})."


# ------------------------------------------------------------------------------------------ for the checks' own use


@contextmanager
def saying(words: str) -> Iterator[None]:
    """Say it in the lesson's words when something in the block fails, with what was measured after them.

    Where the reader's function gave no result, that is said alone.
    """
    try:
        yield
    except Failed:
        raise
    except AssertionError as error:
        raise AssertionError(f"{words}. ({error})") from None


@contextmanager
def explaining(kind: type[Exception], words: str) -> Iterator[None]:
    """Say why after the exception, where the reader's function raises one of a kind that the exercise provokes."""
    try:
        yield
    except Raised as raised:
        if not isinstance(raised.error, kind):
            raise
        raise AssertionError(f"{raised}. {words}.") from None


def normal(seed: int) -> Callable[..., Tensor]:
    """Draws tensors of any shape in float64, one after another from one stream: ``draw = normal(0); draw(3, 5)``."""
    return functools.partial(torch.randn, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tensor(found: Any, shape: tuple[int, ...], words: str) -> Tensor:
    """The answer in float64, if it is numbers of this shape; otherwise the words, which say what it should be."""
    try:
        values = torch.as_tensor(found, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"{words}; you return a {type(found).__name__}.") from None
    assert values.shape == shape, f"{words}; yours has shape {list(values.shape)}."
    assert not values.isnan().any(), f"{words}; yours has NaN in it: 0/0, or the root of a negative number."
    return values


def number(found: Any, words: str) -> float:
    """The answer, if it is a number; otherwise the words, which say what it should be."""
    if isinstance(found, Tensor | np.ndarray) and len(found.reshape(-1)) == 1:
        found = found.reshape(())
    return float(tensor(found, (), words))


def pair(found: Any, words: str) -> tuple[Any, Any]:
    """The answer, if it is two things; otherwise the words, which say what they should be."""
    is_sequence = isinstance(found, tuple | list) or (isinstance(found, Tensor | np.ndarray) and found.ndim > 0)
    assert is_sequence and len(found) == 2, f"{words}."
    first, second = found
    return first, second
