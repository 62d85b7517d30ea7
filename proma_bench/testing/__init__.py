"""Property tests for projections: Hypothesis strategies for hostile inputs, and invariants with names.

    from proma_bench.testing import check_projection, assert_orthogonal_to, projection_problems

    check_projection(my_projection)                       # every contract of an exact projection, on hundreds of inputs
    examine_projection(my_projection)                     # which of them hold, and a counterexample for each other one

    @given(projection_problems())                         # or one of them, on inputs of your choice
    def test_mine(problem):
        assert_orthogonal_to(my_projection, problem.running, problem.seq_grads)

A projection is any ``fn(running [*W], seq_grads [B, *W]) -> [*W]``. For update rules (`UpdateRule`) there are
`check_rule` and `examine_rule`. From the shell: ``proma-bench verify package.module:function``, for either. Needs
Hypothesis (``pip install hypothesis``).
"""

from proma_bench.testing.checks import EXACT_INVARIANTS, INEXACT_INVARIANTS, check_projection
from proma_bench.testing.findings import Finding, examine_projection
from proma_bench.testing.invariants import (
    Projection,
    Step,
    assert_clamp_respected,
    assert_duplicate_invariant,
    assert_finite,
    assert_first_microbatch_is_plain,
    assert_idempotent,
    assert_in_span,
    assert_no_shrinkage_is_plain,
    assert_norm_not_increased,
    assert_orthogonal_to,
    assert_permutation_invariant,
    assert_scale_invariant,
    assert_sign_invariant,
    assert_zero_invariant,
    rounding_tolerance,
    worst_case_tolerance,
)
from proma_bench.testing.rules import (
    RULE_INVARIANTS,
    SOUND_RULE_INVARIANTS,
    assert_rule_batched,
    assert_rule_finite,
    assert_rule_first_microbatch_is_plain,
    assert_rule_norm_not_increased,
    assert_rule_permutation_equivariant,
    assert_rule_repeatable,
    assert_rule_scale_equivariant,
    check_rule,
    examine_rule,
    rule_step,
)
from proma_bench.testing.strategies import (
    GramProblem,
    ProjectionProblem,
    advantages,
    gram_problems,
    projection_problems,
    running_gradients,
    sequence_gradients,
    shapes,
)

__all__ = [
    "EXACT_INVARIANTS",
    "INEXACT_INVARIANTS",
    "RULE_INVARIANTS",
    "SOUND_RULE_INVARIANTS",
    "Finding",
    "GramProblem",
    "Projection",
    "ProjectionProblem",
    "Step",
    "advantages",
    "assert_clamp_respected",
    "assert_duplicate_invariant",
    "assert_finite",
    "assert_first_microbatch_is_plain",
    "assert_idempotent",
    "assert_in_span",
    "assert_no_shrinkage_is_plain",
    "assert_norm_not_increased",
    "assert_orthogonal_to",
    "assert_permutation_invariant",
    "assert_rule_batched",
    "assert_rule_finite",
    "assert_rule_first_microbatch_is_plain",
    "assert_rule_norm_not_increased",
    "assert_rule_permutation_equivariant",
    "assert_rule_repeatable",
    "assert_rule_scale_equivariant",
    "assert_scale_invariant",
    "assert_sign_invariant",
    "assert_zero_invariant",
    "check_projection",
    "check_rule",
    "examine_projection",
    "examine_rule",
    "gram_problems",
    "projection_problems",
    "rounding_tolerance",
    "rule_step",
    "running_gradients",
    "sequence_gradients",
    "shapes",
    "worst_case_tolerance",
]
