"""Types, scales, and never a NaN from finite input."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from projection_oracles import EPS, FLOATS, GRAM_METHODS, METHODS, NARROW, combine, configs, norm, normal, of_any_type

from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.gram import corrected_advantages, removal
from proma_bench.projection.literal import accumulate, project
from proma_bench.projection.solve import gradient_rank_tolerance, projection_weights, rank_tolerance
from proma_bench.testing import gram_problems, projection_problems

# ----------------------------------------------------------------------------------------------- whole tensors


@pytest.mark.parametrize("method", METHODS)
@given(problem=of_any_type(near_duplicates=True), dtype=st.sampled_from(FLOATS))
def test_types_may_be_narrow_and_mixed(method, problem, dtype):
    """Arithmetic is float64 whatever comes in; the result has the running gradient's type and is rounded once."""
    running = problem.running.double().clamp(-1e4, 1e4).to(dtype)  # as far as float16 goes
    result = project(running, problem.seq_grads, method=method)
    reference = project(running.double(), problem.seq_grads, method=method)
    assert result.dtype == dtype
    assert torch.equal(result, reference.to(dtype))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", NARROW)
def test_gradients_that_are_parallel_up_to_their_rounding_count_once(method, dtype):
    """Only float32 has to be told: 16-bit rounding is a direction like any other, as far as can be known."""
    running, single = normal(40), normal(1, 40, seed=1).to(dtype)
    rounded = torch.cat([single, (3.7 * single.double()).to(dtype), (-0.9 * single.double()).to(dtype)])
    expected = project(running, single, method=method)
    result = project(running, rounded, method=method)
    if dtype == torch.float32 and method != "ridge":
        assert norm(result - expected) <= 1e-4 * norm(running)
    else:
        assert norm(result) <= norm(expected) + 1e-12


EXTREMES = (5e-324, 1e-310, 2.3e-308, 1e-200, 1.0, 1e200, 1.7e308)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seq_scale", EXTREMES)
@pytest.mark.parametrize("running_scale", EXTREMES)
def test_finite_at_the_ends_of_float64(method, running_scale, seq_scale):
    running = running_scale * torch.tensor([1.0, -1.0, 0.5, 0.0, 1.0]).double()
    seq_grads = seq_scale * torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, 0.0, 1.0]]).double()
    result = project(running, seq_grads, method=method)
    assert result.isfinite().all()
    if running_scale > 1e-300:
        expected = project(running / running_scale, seq_grads / seq_scale, method=method)
        torch.testing.assert_close(result / running_scale, expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("end", ["max", "tiny", "smallest_normal", "subnormal"])
def test_finite_at_the_ends_of_narrow_types(method, dtype, end):
    info = torch.finfo(dtype)
    value = info.tiny * info.eps if end == "subnormal" else getattr(info, end)
    seq_grads = torch.tensor([[value, -value, 0.0], [value, value, value], [0.0, 0.0, 0.0]], dtype=dtype)
    for running in (seq_grads[0], seq_grads[1], torch.ones(3, dtype=dtype)):
        assert project(running, seq_grads, method=method).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_a_scalar_parameter_loses_everything_it_has(method):
    result = project(torch.tensor(3.0).double(), torch.tensor([2.0, 0.0, -1e9]).double(), method=method)
    assert result.shape == ()
    assert abs(float(result)) <= (0.1 if method == "ridge" else 1e-15)


@pytest.mark.parametrize("method", METHODS)
def test_no_sequences_and_no_parameters_are_no_special_cases(method):
    running = normal(3, 2)
    assert torch.equal(project(running, torch.zeros(0, 3, 2), method=method), running)
    assert project(torch.zeros(0), torch.zeros(4, 0), method=method).shape == (0,)


@pytest.mark.parametrize("method", METHODS)
def test_inputs_are_left_alone(method):
    running, seq_grads = normal(3, 2), normal(4, 3, 2, seed=1)
    copies = running.clone(), seq_grads.clone()
    project(running, seq_grads, method=method)
    assert torch.equal(running, copies[0]) and torch.equal(seq_grads, copies[1])


# ------------------------------------------------------------------------------------------------ B dimensions


@given(st.lists(st.integers(0, 2**20), min_size=1, max_size=4), configs())
def test_leading_axes_are_independent_problems(seeds, config):
    rows = torch.stack([normal(5, 8, seed=seed) for seed in seeds])
    rows[:, 3] = 0
    gram, overlap = rows @ rows.mT, (rows @ normal(8, 1, seed=1)).squeeze(-1)
    shared, own = normal(5, seed=2), normal(len(seeds), 5, seed=3)
    for advantages in (shared, own):
        together = corrected_advantages(gram, overlap, advantages, config)
        single = [
            corrected_advantages(g, c, a, config)
            for g, c, a in zip(gram, overlap, advantages.expand(len(seeds), 5), strict=True)
        ]
        torch.testing.assert_close(together, torch.stack(single), rtol=1e-10, atol=1e-10)
    grid = removal(gram.repeat(2, 1, 1, 1), overlap.repeat(2, 1, 1), shared, config)
    assert grid.coefficients.shape == (2, len(seeds), 5)
    assert grid.norm.shape == grid.clamped.shape == (2, len(seeds))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(data=st.data())
def test_a_narrow_gram_matrix_gives_finite_float64(dtype, data):
    problem = data.draw(gram_problems(dtype=dtype, near_duplicates=True, scale=10.0 ** data.draw(st.floats(-2, 1))))
    assume(all(tensor.isfinite().all() for tensor in problem))
    config = data.draw(configs())
    removed = removal(*problem, config)
    assert removed.coefficients.dtype == removed.norm.dtype == torch.float64
    assert removed.coefficients.isfinite().all() and removed.norm.isfinite()


@given(projection_problems(dtype=torch.float32, scale=3.0))
def test_a_float32_gram_matrix_gives_the_same_to_its_rounding(problem):
    rows, flat = problem.seq_grads.reshape(len(problem.seq_grads), -1), problem.running.flatten()
    for method in GRAM_METHODS:
        weights = projection_weights(rows @ rows.T, rows @ flat, ProjectionConfig(method))
        expected = project(problem.running.double(), problem.seq_grads, method=method)
        assert norm(problem.running - combine(weights, problem.seq_grads) - expected) <= 1e-4 * norm(flat)


def test_orthogonal_gradients_are_removed_to_float64_rounding_from_a_float32_gram_matrix():
    """The rank cut is near 1e-5 there; repeated solves keep it from showing in what lies above."""
    overlap = normal(8, seed=1)
    for method in ("exact", "iterative"):
        weights = projection_weights(4 * torch.eye(8), 4 * overlap.float(), ProjectionConfig(method, sweeps=1))
        torch.testing.assert_close(weights, overlap.float().double(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies_share_a_weight(dtype):
    """A pseudo-inverse gives the smallest weights, equal ones for equal gradients: nothing large that cancels."""
    rows, running = normal(8, 200).to(dtype), normal(200, seed=1).to(dtype)
    single = projection_weights(rows @ rows.T, rows @ running, ProjectionConfig("exact"))
    rows = torch.cat([rows, rows[:1]])
    weights = projection_weights(rows @ rows.T, rows @ running, ProjectionConfig("exact"))
    size = norm(running) / norm(rows[0])
    torch.testing.assert_close(weights[8], single[0] / 2, rtol=0, atol=0.02 * size)
    torch.testing.assert_close(weights[0] + weights[8], single[0], rtol=0, atol=1e-5 * size)


@given(gram_problems(scale=1.0), st.sampled_from([-150, -100, -10, 10, 100, 150]), configs())
def test_the_scale_of_a_layer_does_not_matter(problem, exponent, config):
    """All of a layer's gradients times s: the same corrected advantages for a running gradient times s."""
    factor = 2.0 ** (2 * exponent)
    expected = corrected_advantages(*problem, config)
    result = corrected_advantages(problem.gram * factor, problem.overlap * factor, problem.advantages, config)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", GRAM_METHODS)
@pytest.mark.parametrize("max_removed", [None, 0.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("end", ["tiny", "subnormal", "large"])
def test_squared_norms_at_the_ends_of_a_type_stay_finite(method, max_removed, dtype, end):
    info = torch.finfo(dtype)
    square = {"tiny": info.tiny, "subnormal": info.tiny * info.eps, "large": info.max / 4}[end]
    gram = torch.full((3, 3), square, dtype=dtype)
    gram[2] = gram[:, 2] = 0
    overlap = torch.tensor([square, -square, 1e-3], dtype=dtype)  # the last square underflowed, its overlap did not
    result = removal(gram, overlap, torch.tensor([1.0, -1.0, 1.0]), ProjectionConfig(method, max_removed=max_removed))
    assert result.coefficients.isfinite().all()
    zeros = slice(2, 3) if end == "large" else slice(0, 3)  # a square with digits missing counts as zero
    assert not result.coefficients[zeros].any()


def test_a_matrix_that_is_no_gram_matrix_removes_nothing():
    """Eigenvalue -0.8: no gradients have these inner products."""
    gram = torch.tensor([[1.0, -0.9, -0.9], [-0.9, 1.0, -0.9], [-0.9, -0.9, 1.0]])
    for method in ("exact", "ridge"):
        result = removal(gram, torch.ones(3), torch.ones(3), ProjectionConfig(method, max_removed=None))
        assert torch.equal(result.coefficients, torch.zeros(3).double())


def test_rank_cuts_are_as_stated():
    assert rank_tolerance(8, torch.float64) == 16 * 8 * EPS
    assert rank_tolerance(8, torch.float32) == 16 * 8 * 2.0**-23
    assert gradient_rank_tolerance(torch.zeros(8, 3)) == 16 * 8 * 2.0**-34.5
    assert gradient_rank_tolerance(torch.zeros(8, 3, dtype=torch.bfloat16)) == 16 * 8 * EPS


@given(st.integers(0, 2**20), configs())
def test_a_step_has_the_type_of_the_running_gradient_and_leaves_its_inputs_alone(seed, config):
    inputs = normal(4, 3, seed=seed).float(), normal(2, 4, 3, seed=seed + 1).bfloat16(), normal(2).half()
    copies = [tensor.clone() for tensor in inputs]
    assert accumulate(*inputs, config).dtype == torch.float32
    assert accumulate(None, *inputs[1:], config).dtype == torch.bfloat16
    gram = inputs[1].double().flatten(1) @ inputs[1].double().flatten(1).T
    corrected_advantages(gram, gram[0], inputs[2], config)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, copies, strict=True))


def test_no_sequences_correct_nothing():
    for method in GRAM_METHODS:
        config = ProjectionConfig(method)
        assert corrected_advantages(torch.zeros(0, 0), torch.zeros(0), torch.zeros(0), config).shape == (0,)
        assert torch.equal(accumulate(torch.ones(3), torch.zeros(0, 3), torch.zeros(0), config), torch.ones(3))


def test_a_scalar_parameter():
    config = ProjectionConfig(method="exact", max_removed=None)
    result = accumulate(torch.tensor(3.0), torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0]), config)
    assert float(result) == 1.0


# ----------------------------------------------------------------------- no waiting, and the method that can't


@pytest.mark.parametrize("method", GRAM_METHODS)
@pytest.mark.parametrize("max_removed", [None, 0.5])
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_nothing_looks_at_a_value(method, max_removed, batch):
    """On the meta device tensors have no values: an ``.item()`` or a branch on one raises; on a GPU it would wait."""
    config = ProjectionConfig(method, max_removed=max_removed)
    gram, overlap = torch.empty(*batch, 8, 8, device="meta"), torch.empty(*batch, 8, device="meta")
    advantages = torch.empty(8, device="meta")
    assert corrected_advantages(gram, overlap, advantages, config).shape == (*batch, 8)
    running, seq_grads = torch.empty(5, 6, device="meta"), torch.empty(8, 5, 6, device="meta")
    assert accumulate(running, seq_grads, advantages, config).shape == (5, 6)


def test_qr_needs_the_gradients():
    with pytest.raises(ValueError, match="use 'exact', the same projection from the Gram matrix"):
        corrected_advantages(torch.eye(2), torch.ones(2), torch.ones(2), ProjectionConfig("qr"))
