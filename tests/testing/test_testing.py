"""The testing tools themselves: inputs are as hostile as they claim, and each invariant catches what breaks it."""

import functools
import math

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st

from proma_bench import testing
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.literal import accumulate, project

quickly = settings(max_examples=2000, derandomize=True, database=None)


def unit_rows(seq_grads):
    rows = seq_grads.double().reshape(len(seq_grads), -1)
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)


def cosines(seq_grads):
    """Of all pairs of different gradients that are not zero."""
    units = unit_rows(seq_grads)
    units = units[units.abs().amax(1) > 0]
    return (units @ units.T)[~torch.eye(len(units), dtype=torch.bool)]


# -------------------------------------------------------------------------------------------------- strategies


@given(st.integers(0, 7).flatmap(lambda r: st.tuples(st.just(r), testing.sequence_gradients(rank=r))))
def test_the_rank_is_as_asked_and_clear(drawn):
    rank, seq_grads = drawn
    eigenvalues = torch.linalg.svdvals(unit_rows(seq_grads)).square()
    kept = eigenvalues[eigenvalues > 0.0899]
    assert len(kept) <= rank
    assert (eigenvalues[len(kept) :] < 1e-20).all()


@given(testing.sequence_gradients(shape=(2, 3), sequences=4, rank=2, scale=5.0, repeats=False, dtype=torch.float32))
def test_what_is_given_is_not_drawn(seq_grads):
    assert seq_grads.shape == (4, 2, 3)
    assert seq_grads.dtype == torch.float32
    assert torch.linalg.matrix_rank(seq_grads.flatten(1), rtol=1e-4) == 2
    assert 1.4 < torch.linalg.svdvals(seq_grads.flatten(1))[0] < 5.1


HOSTILE = {
    "a zero": lambda s: bool((s.reshape(len(s), -1) == 0).all(1).any()),
    "nothing but zeros": lambda s: not s.any(),
    "a copy": lambda s: bool((cosines(s) > 1 - 1e-12).any()),
    "a negation": lambda s: bool((cosines(s) < -1 + 1e-12).any()),
    "more sequences than parameters": lambda s: len(s) > s[0].numel() > 1,
    "a scalar parameter": lambda s: s.dim() == 1,
    "a vector parameter": lambda s: s.dim() == 2 and s.shape[1] > 1,
    "a matrix parameter": lambda s: s.dim() == 3,
    "three axes": lambda s: s.dim() == 4,
    "a single sequence": lambda s: len(s) == 1,
    "gradients of 1e9 beside gradients of 1": lambda s: _norm_ratio(s) > 1e9,
    "tiny gradients": lambda s: 0 < float(s.abs().max()) < 1e-6,
}


def _norm_ratio(seq_grads):
    norms = torch.linalg.vector_norm(seq_grads.reshape(len(seq_grads), -1), dim=1)
    norms = norms[norms > 0]
    return float(norms.max() / norms.min()) if len(norms) else 1.0


@pytest.mark.parametrize("kind", HOSTILE)
def test_every_hostile_kind_of_input_is_drawn(kind):
    find(testing.sequence_gradients(), HOSTILE[kind], settings=quickly)


def test_near_duplicates_are_drawn_on_request():
    def nearly(seq_grads):
        return bool(((cosines(seq_grads) < 1 - 1e-13) & (cosines(seq_grads) > 1 - 1e-7)).any())

    find(testing.sequence_gradients(near_duplicates=True), nearly, settings=quickly)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@given(data=st.data())
def test_problems_fit_together_in_every_type(dtype, data):
    problem = data.draw(testing.projection_problems(dtype=dtype))
    assert problem.running.shape == problem.seq_grads.shape[1:]
    assert problem.advantages.shape == problem.seq_grads.shape[:1]
    assert {tensor.dtype for tensor in problem} == {dtype}
    assert all(tensor.isfinite().all() for tensor in problem)


def test_running_gradients_lie_inside_and_outside_the_span():
    seq_grads = torch.eye(4)[:2].double() * 1e7

    def inside(running):
        return float(torch.linalg.vector_norm(running[:2]))

    def outside(running):
        return float(torch.linalg.vector_norm(running[2:]))

    running = testing.running_gradients(seq_grads, norm=3.0)
    find(running, lambda a: inside(a) == pytest.approx(3) and outside(a) < 1e-12, settings=quickly)
    find(running, lambda a: outside(a) == pytest.approx(3) and inside(a) < 1e-12, settings=quickly)
    find(running, lambda a: inside(a) > 0.1 and outside(a) > 0.1, settings=quickly)
    find(running, lambda a: not a.any(), settings=quickly)


def test_advantages_are_of_every_kind():
    values = testing.advantages(4)
    find(values, lambda a: not a.any(), settings=quickly)
    find(values, lambda a: bool(a.any()) and abs(float(a.sum())) < 1e-12, settings=quickly)
    find(values, lambda a: 0 < int((a == 0).sum()) < 4, settings=quickly)
    find(values, lambda a: bool((a < 0).any()) and bool((a > 0).any()), settings=quickly)


@given(testing.gram_problems())
def test_gram_problems_come_from_gradients(problem):
    assert torch.linalg.eigvalsh(problem.gram)[0] >= -1e-12 * problem.gram.abs().max()
    assert len(problem.gram) == len(problem.overlap) == len(problem.advantages)


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
    (forgot_to_normalise, testing.assert_scale_invariant, "not scale invariant"),
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
