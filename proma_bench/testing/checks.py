"""Every promise of a projection, tried on many hostile inputs in one call."""

from __future__ import annotations

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


def check_projection(
    fn: Projection, *, exact: bool = True, examples: int = 200, dtype: torch.dtype = torch.float64
) -> None:
    """Raise AssertionError at the first promise that ``fn(running [*W], seq_grads [B, *W]) -> [*W]`` breaks.

    ``exact`` asks for a true projection onto the complement of the span; without it, for what the iterative and the
    ridge method promise too. All promises are tried on each of ``examples`` inputs, the same ones every time.
    Hypothesis reduces an input that fails to a small counterexample, which comes with the error.
    """

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.generate, Phase.shrink],
    )
    @given(projection_problems(dtype=dtype))
    def every_promise_is_kept(problem: ProjectionProblem) -> None:
        for invariant in EXACT_INVARIANTS if exact else INEXACT_INVARIANTS:
            invariant(fn, problem.running, problem.seq_grads)

    every_promise_is_kept()
