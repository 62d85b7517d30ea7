"""Every promise of a projection on its own: whether it holds, and if not, a small input that shows it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from hypothesis import find, given
from hypothesis import strategies as st
from hypothesis.errors import Flaky, NoSuchExample

from proma_bench.foreign import FAILURES, described
from proma_bench.testing.checks import Invariant, promises, search, undisturbed
from proma_bench.testing.invariants import Projection
from proma_bench.testing.strategies import ProjectionProblem, projection_problems

Words = Callable[[ProjectionProblem], str | None]
"""How an input breaks a promise, in words; None if it does not."""


@dataclass(frozen=True)
class Finding:
    """Whether one promise holds.

    Attributes:
        invariant: the function of `proma_bench.testing` that states it.
        failure: how the counterexample breaks it, in words; None where the promise holds.
        counterexample: a small input that breaks it; None where the promise holds.
    """

    invariant: Callable[..., None]
    failure: str | None = None
    counterexample: ProjectionProblem | None = None

    @property
    def holds(self) -> bool:
        return self.failure is None

    @property
    def name(self) -> str:
        """The promise in a few words: ``orthogonal to``, ``norm not increased``, ..."""
        return self.invariant.__name__.removeprefix("assert_").removeprefix("rule_").replace("_", " ")


def examine_projection(
    fn: Projection, *, exact: bool = True, examples: int = 200, dtype: torch.dtype = torch.float64
) -> list[Finding]:
    """Try every promise of `check_projection` on each of ``examples`` inputs, and reduce what breaks one.

    The inputs are the same every time. An exception in ``fn`` breaks the promise that was tried.

    Args:
        fn: the projection.
        exact: ask for a true projection, see `check_projection`.
        examples: how many inputs.
        dtype: of the inputs.

    Returns:
        One finding per promise.
    """
    fn = undisturbed(fn)
    asked = {invariant: functools.partial(failure, fn, invariant) for invariant in promises(exact)}
    return findings(asked, projection_problems(dtype=dtype), examples)


def failure(fn: Projection, invariant: Invariant, problem: ProjectionProblem) -> str | None:
    """How the projection breaks a promise on this input, in words; None if it keeps it."""
    return in_words(lambda: invariant(fn, problem.running, problem.seq_grads))


def in_words(call: Callable[[], None]) -> str | None:
    """Why the call of a promise failed; None if it did not."""
    try:
        call()
    except AssertionError as error:
        return str(error)
    except FAILURES as error:  # the code is somebody else's
        return f"raised {described(error)}"
    return None


def findings(
    promises: Mapping[Callable[..., None], Words], problems: st.SearchStrategy[ProjectionProblem], examples: int
) -> list[Finding]:
    """Try each promise on each of the inputs, and reduce what breaks one.

    Args:
        promises: each with how an input breaks it.
        problems: the inputs.
        examples: how many.

    Returns:
        One finding per promise.
    """
    broken: dict[Callable[..., None], ProjectionProblem] = {}

    @search(max_examples=examples)
    @given(problems)
    def collect(problem: ProjectionProblem) -> None:
        for invariant, words in promises.items():
            if invariant not in broken and words(problem):
                broken[invariant] = problem

    collect()
    return [
        _reduced(invariant, words, broken[invariant], problems, examples) if invariant in broken else Finding(invariant)
        for invariant, words in promises.items()
    ]


def _reduced(
    invariant: Callable[..., None],
    words: Words,
    problem: ProjectionProblem,
    problems: st.SearchStrategy[ProjectionProblem],
    examples: int,
) -> Finding:
    """The promise with a smaller input than this one, if Hypothesis finds one, and with rounder numbers if possible."""

    def breaks(candidate: ProjectionProblem) -> bool:
        return words(candidate) is not None

    with contextlib.suppress(NoSuchExample, Flaky):
        problem = find(problems, breaks, settings=search(max_examples=examples))
    problem = next(filter(breaks, map(problem.rounded, (0, 1, 2))), problem)
    found = words(problem) or "not the same every time: the same input broke the promise and kept it"
    return Finding(invariant, found, problem)
