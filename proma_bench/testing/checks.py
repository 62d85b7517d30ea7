"""Every promise of a projection, tried on many hostile inputs in one call."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from hypothesis import HealthCheck, Phase, given, settings
from torch import Tensor

from proma_bench.testing import invariants
from proma_bench.testing.invariants import Projection
from proma_bench.testing.strategies import ProjectionProblem, projection_problems

Invariant = Callable[[Projection, Tensor, Tensor], None]

#: What the inexact methods (iterative, ridge) promise as well.
INEXACT_INVARIANTS: tuple[Invariant, ...] = (
    invariants.assert_finite,
    invariants.assert_first_microbatch_is_plain,
    invariants.assert_norm_not_increased,
    invariants.assert_in_span,
    invariants.assert_scale_invariant,
    invariants.assert_sign_invariant,
    invariants.assert_zero_invariant,
)

EXACT_INVARIANTS: tuple[Invariant, ...] = (
    *INEXACT_INVARIANTS,
    invariants.assert_orthogonal_to,
    invariants.assert_idempotent,
    invariants.assert_duplicate_invariant,
    invariants.assert_permutation_invariant,
)


def promises(exact: bool) -> tuple[Invariant, ...]:
    """What is asked of a projection."""
    return EXACT_INVARIANTS if exact else INEXACT_INVARIANTS


#: Settings with which Hypothesis looks for a counterexample the same way every time and leaves nothing behind.
search = functools.partial(
    settings,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate, Phase.shrink],
)


def undisturbed(fn: Projection) -> Projection:
    """The projection on copies, because one that works in place would change what its result is compared with."""
    return lambda running, seq_grads: fn(running.clone(), seq_grads.clone())


def check_projection(
    fn: Projection, *, exact: bool = True, examples: int = 200, dtype: torch.dtype = torch.float64
) -> None:
    """Raise AssertionError at the first promise that ``fn(running [*W], seq_grads [B, *W]) -> [*W]`` breaks.

    All promises are tried on each input, and the inputs are the same every time. Hypothesis reduces an input that fails
    to a small counterexample, which comes with the error. `examine_projection` tries each promise on its own.

    Args:
        fn: the projection.
        exact: ask for a true projection onto the complement of the span; otherwise only for what the iterative and the
            ridge method promise, too.
        examples: how many inputs.
        dtype: of the inputs.

    Raises:
        AssertionError: a promise is broken.
    """

    @search(max_examples=examples)
    @given(projection_problems(dtype=dtype))
    def every_promise_is_kept(problem: ProjectionProblem) -> None:
        for invariant in promises(exact):
            invariant(undisturbed(fn), problem.running, problem.seq_grads)

    every_promise_is_kept()
