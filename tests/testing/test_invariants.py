"""Invariants notice wrong projections, and say in words what is wrong; right ones keep every promise."""

import functools
import math

import pytest
import torch
from hypothesis import settings
from projection_oracles import unit_rows

from proma_bench import testing
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.literal import accumulate, project

quickly = settings(max_examples=2000, derandomize=True, database=None)


# -------------------------------------------------------------------------------------------------- invariants


def flat(fn):
    """A projection of vectors as one of tensors."""

    @functools.wraps(fn)
    def projection(running, seq_grads):
        return fn(running.flatten(), seq_grads.reshape(len(seq_grads), -1)).reshape(running.shape)

    return projection


@flat
def nothing_removed(a, s):
    return a.clone()


@flat
def everything_removed(a, s):
    return torch.zeros_like(a)


@flat
def something_added(a, s):
    return a + s.sum(0)


@flat
def twice_removed(a, s):
    return 2 * project(a, s) - a  # the mirror image: no longer than before


@flat
def three_times_removed(a, s):
    return 3 * project(a, s) - 2 * a


@flat
def forgot_to_normalise(a, s):
    return a - (s @ a) @ s


@flat
def forgot_the_sign(a, s):
    return project(a, s.clamp_min(0))


@flat
def all_at_once(a, s):
    units = unit_rows(s)
    return a - (units @ a) @ units / len(units)  # Jacobi rather than Gauss-Seidel, damped


@flat
def divided_by_zero(a, s):
    units = s / torch.linalg.vector_norm(s, dim=1, keepdim=True)
    return project(a, units)


@flat
def first_one_only(a, s):
    return project(a, s[:1])


@flat
def too_narrow(a, s):
    return project(a, s).float()


A = torch.tensor([[3.0, 4.0], [1.0, -2.0]]).double()
S = torch.tensor([[[1.0, -1.0], [0.5, 0.0]], [[2.0, 0.0], [1.0, 1.0]], [[0.0, 0.5], [0.0, 3.0]]]).double()

BROKEN = [
    (nothing_removed, testing.assert_orthogonal_to, "not orthogonal: .*along sequence gradient"),
    (everything_removed, testing.assert_in_span, "not in the span: a part of what was removed"),
    (something_added, testing.assert_first_microbatch_is_plain, "first microbatch not plain"),
    (twice_removed, testing.assert_idempotent, "not idempotent: projecting a second time"),
    (three_times_removed, testing.assert_norm_not_increased, "norm increased"),
    (
        forgot_to_normalise,
        testing.assert_scale_invariant,
        "scale invariant: multiplying .* by 1048576(, 9.536743e-07)?",
    ),
    (forgot_the_sign, testing.assert_sign_invariant, "not sign invariant"),
    (all_at_once, testing.assert_duplicate_invariant, "not duplicate invariant"),
    (all_at_once, testing.assert_zero_invariant, "not zero invariant: adding"),
    (divided_by_zero, testing.assert_zero_invariant, "not zero invariant"),
    (first_one_only, testing.assert_permutation_invariant, "not permutation invariant"),
    (too_narrow, testing.assert_finite, "wrong kind of result: .*torch.float32"),
]


@pytest.mark.parametrize(("fn", "invariant", "message"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_each_invariant_names_what_a_wrong_projection_breaks(fn, invariant, message):
    invariant(project, A, S)
    with pytest.raises(AssertionError, match=message):
        invariant(fn, A, S)


def test_messages_say_how_much_was_measured_and_how_much_is_allowed():
    with pytest.raises(
        AssertionError, match=r"measured 2\.21, allowed 0\.0548 \(the running gradient has norm 5\.48\)"
    ):
        testing.assert_norm_not_increased(three_times_removed, A, S[:2], tolerance=0.01)


def test_a_nan_breaks_every_invariant_that_measures():
    def broken(running, seq_grads):
        return torch.full_like(running, math.nan)

    for invariant in testing.EXACT_INVARIANTS:
        with pytest.raises(AssertionError):
            invariant(broken, A, S)


def test_scales_may_be_given():
    def rounded(running, seq_grads):
        return project(running, torch.where(seq_grads.abs() < 1e-9, 0.0, seq_grads))

    testing.assert_scale_invariant(rounded, A, S)
    with pytest.raises(AssertionError, match="not scale invariant"):
        testing.assert_scale_invariant(rounded, A, S, scales=torch.tensor([1.0, 1e-10, 1e10]))


def test_invariants_of_a_step():
    def step(config):
        return lambda running, seq_grads, advantages: accumulate(running, seq_grads, advantages, config)

    advantages = torch.tensor([0.1, 0.0, -0.1]).double()
    clamped = step(ProjectionConfig(max_removed=0.5))
    free = step(ProjectionConfig(max_removed=None))
    testing.assert_clamp_respected(clamped, A, S, advantages, max_removed=0.5)
    with pytest.raises(AssertionError, match=r"clamp not respected: more than 0\.5 times"):
        testing.assert_clamp_respected(free, A, S, advantages, max_removed=0.5)
    with pytest.raises(AssertionError, match="clamp not respected"):
        testing.assert_clamp_respected(clamped, A, S, advantages, max_removed=0.45)
    testing.assert_no_shrinkage_is_plain(step(ProjectionConfig(shrinkage=0)), A, S, advantages)
    with pytest.raises(AssertionError, match="not plain accumulation"):
        testing.assert_no_shrinkage_is_plain(clamped, A, S, advantages)


# -------------------------------------------------------------------------------------------- check_projection


@pytest.mark.parametrize("method", ["exact", "qr"])
def test_check_projection_passes_exact_methods(method):
    testing.check_projection(functools.partial(project, method=method), examples=50)


@pytest.mark.parametrize("method", ["iterative", "ridge"])
def test_check_projection_asks_less_of_inexact_methods(method):
    fn = functools.partial(project, method=method)
    testing.check_projection(fn, exact=False, examples=50)
    with pytest.raises(AssertionError, match="not orthogonal"):
        testing.check_projection(fn, examples=50)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_check_projection_in_narrow_types(dtype):
    testing.check_projection(project, examples=30, dtype=dtype)


@pytest.mark.parametrize("fn", [nothing_removed, everything_removed, forgot_to_normalise, all_at_once, divided_by_zero])
def test_check_projection_catches_wrong_projections(fn):
    with pytest.raises(AssertionError):
        testing.check_projection(fn, exact=False)
        testing.check_projection(fn)


def test_the_counterexample_is_small_and_comes_with_the_error():
    with pytest.raises(AssertionError) as error:
        testing.check_projection(first_one_only)
    notes = "\n".join(error.value.__notes__)
    assert "running=tensor(" in notes and "seq_grads=tensor(" in notes
    assert len(notes) < 1000


def test_every_name_is_documented():
    for name in testing.__all__:
        assert getattr(testing, name).__doc__ or name.endswith("INVARIANTS") or name in ("Projection", "Step"), name
