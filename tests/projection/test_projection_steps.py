"""The contracts of one step: `accumulate`, `corrected_advantages` and the clamp."""

import math

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from projection_oracles import CLAMPS, EPS, GRAM_METHODS, METHODS, combine, configs, gram_of, norm, normal, parts

from proma_bench import testing
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.gram import corrected_advantages, removal
from proma_bench.projection.literal import accumulate, project
from proma_bench.projection.solve import projection_weights, rank_tolerance
from proma_bench.testing import gram_problems, projection_problems


def step_with(config):
    return lambda running, seq_grads, advantages: accumulate(running, seq_grads, advantages, config)


# -------------------------------------------------------------------------------------- the formula, literally


@given(projection_problems(balanced=True), configs(METHODS))
def test_a_step_is_the_formula(problem, config):
    """``A - rho sigma P_S A + g`` with ``rho = min(1, beta ||g|| / ||P_S A||)``."""
    component = problem.running - project(
        problem.running, problem.seq_grads, method=config.method, sweeps=config.sweeps
    )
    gradient = combine(problem.advantages, problem.seq_grads)
    rho = 1.0
    if config.max_removed is not None and norm(component) > 0:
        rho = min(1.0, config.max_removed * norm(gradient) / norm(component))
    expected = problem.running - rho * config.shrinkage * component + gradient
    result = accumulate(problem.running, problem.seq_grads, problem.advantages, config)
    assert norm(result - expected) <= 1e-12 * parts(problem)


@given(projection_problems(balanced=True), configs())
def test_corrected_advantages_are_the_step_in_b_dimensions(problem, config):
    gram, overlap = gram_of(problem)
    corrected = corrected_advantages(gram, overlap, problem.advantages, config)
    result = problem.running + combine(corrected, problem.seq_grads)
    expected = accumulate(problem.running, problem.seq_grads, problem.advantages, config)
    # Where advantages cancel, x'Kx loses half its digits: the clamp then allows rounding's share too much.
    slack = 1e-10 + (config.max_removed or 0) * math.sqrt(64 * EPS)
    assert norm(result - expected) <= slack * parts(problem)


@given(projection_problems(near_duplicates=True, balanced=True), configs(("iterative", "ridge")))
def test_corrected_advantages_are_the_step_however_nearly_dependent_the_gradients(problem, config):
    gram, overlap = gram_of(problem)
    result = problem.running + combine(
        corrected_advantages(gram, overlap, problem.advantages, config), problem.seq_grads
    )
    expected = accumulate(problem.running, problem.seq_grads, problem.advantages, config)
    slack = 1e-10 + (config.max_removed or 0) * math.sqrt(64 * EPS)
    assert norm(result - expected) <= slack * parts(problem)


@given(projection_problems(near_duplicates=True, balanced=True))
def test_exact_weights_are_orthogonal_however_nearly_dependent_the_gradients(problem):
    gram, overlap = gram_of(problem)
    weights = projection_weights(gram, overlap, ProjectionConfig("exact"))

    def fn(running, seq_grads):
        return running - combine(weights, seq_grads)

    cut = rank_tolerance(len(problem.seq_grads), torch.float64)
    testing.assert_orthogonal_to(fn, problem.running, problem.seq_grads, tolerance=2 * math.sqrt(cut))
    testing.assert_norm_not_increased(fn, problem.running, problem.seq_grads, tolerance=math.sqrt(cut))


@given(projection_problems(balanced=True), configs())
def test_removal_reports_what_is_removed(problem, config):
    gram, overlap = gram_of(problem)
    removed = removal(gram, overlap, problem.advantages, config)
    vector = combine(removed.coefficients, problem.seq_grads)
    corrected = corrected_advantages(gram, overlap, problem.advantages, config)
    assert torch.equal(corrected, problem.advantages - removed.coefficients)
    assert abs(float(removed.norm) - norm(vector)) <= math.sqrt(64 * EPS) * parts(problem)
    if config.max_removed is None:
        assert not removed.clamped
    else:
        weights = projection_weights(gram, overlap, config)
        component = norm(combine(weights, problem.seq_grads))
        excess = component - config.max_removed * norm(combine(problem.advantages, problem.seq_grads))
        if abs(excess) > math.sqrt(64 * EPS) * parts(problem):
            assert bool(removed.clamped) == (excess > 0)


# --------------------------------------------------------------------------------------------------- the clamp


@given(projection_problems(balanced=True, near_duplicates=True), st.floats(0, 3), st.sampled_from(METHODS))
def test_the_clamp_is_respected(problem, max_removed, method):
    step = step_with(ProjectionConfig(method=method, max_removed=max_removed))
    testing.assert_clamp_respected(step, *problem, max_removed=max_removed)


@given(projection_problems(balanced=True), st.floats(1e-100, 3), st.sampled_from(GRAM_METHODS), st.floats(0, 1))
def test_an_active_clamp_removes_exactly_what_it_allows(problem, max_removed, method, shrinkage):
    """Where there is something to remove: a component that is rounding has no norm that could be compared.

    The clamp is not drawn from 0 on, as the norm of something of size 1e-160 underflows in this test.
    """
    component = problem.running - project(problem.running, problem.seq_grads, method=method)
    assume(norm(component) > 1e-4 * norm(problem.running))
    gram, overlap = gram_of(problem)
    config = ProjectionConfig(method=method, max_removed=max_removed, shrinkage=shrinkage)
    removed = removal(gram, overlap, problem.advantages, config)
    if removed.clamped:
        allowed = shrinkage * max_removed * norm(combine(problem.advantages, problem.seq_grads))
        slack = math.sqrt(64 * EPS) * max_removed * parts(problem)
        assert abs(norm(combine(removed.coefficients, problem.seq_grads)) - allowed) <= slack + 1e-300


@given(projection_problems(balanced=True), st.sampled_from(METHODS))
def test_a_clamp_that_is_not_needed_changes_nothing(problem, method):
    gradient = norm(combine(problem.advantages, problem.seq_grads))
    if gradient > 1e-6 * parts(problem):
        roomy = 1.001 * norm(problem.running) / gradient  # no method removes more than the running gradient
        steps = (step_with(ProjectionConfig(method=method, max_removed=beta)) for beta in (roomy, None))
        clamped, free = (step(*problem) for step in steps)
        assert torch.equal(clamped, free)


def test_the_clamp_by_hand():
    """A = (3, 4, 0) loses its first component, 3, as far as half of ||g|| = 2 allows: 1."""
    running = torch.tensor([3.0, 4.0, 0.0]).double()
    seq_grads, advantages = torch.tensor([[10.0, 0.0, 0.0]]).double(), torch.tensor([-0.2]).double()
    clamped = accumulate(running, seq_grads, advantages, ProjectionConfig(max_removed=0.5))
    torch.testing.assert_close(clamped, torch.tensor([3.0 - 1.0 - 2.0, 4.0, 0.0]).double())
    free = accumulate(running, seq_grads, advantages, ProjectionConfig(max_removed=None, shrinkage=0.5))
    torch.testing.assert_close(free, torch.tensor([3.0 - 1.5 - 2.0, 4.0, 0.0]).double())
    result = removal(
        torch.tensor([[100.0]]), torch.tensor([30.0]), torch.tensor([-0.2]), ProjectionConfig(max_removed=0.5)
    )
    torch.testing.assert_close(result.coefficients, torch.tensor([0.1]).double())
    torch.testing.assert_close(result.norm, torch.tensor(1.0).double(), check_dtype=False)
    assert bool(result.clamped)


# ---------------------------------------------------------------------------- what follows from the definition


@given(projection_problems(near_duplicates=True), configs(METHODS))
def test_the_first_microbatch_is_the_plain_policy_gradient(problem, config):
    gradient = combine(problem.advantages, problem.seq_grads)
    assert torch.equal(accumulate(None, problem.seq_grads, problem.advantages, config), gradient)
    zero = torch.zeros_like(problem.running)
    assert torch.equal(accumulate(zero, problem.seq_grads, problem.advantages, config), gradient)


@given(projection_problems(near_duplicates=True), st.sampled_from(METHODS), CLAMPS)
def test_no_shrinkage_is_plain_accumulation(problem, method, max_removed):
    step = step_with(ProjectionConfig(method=method, max_removed=max_removed, shrinkage=0))
    testing.assert_no_shrinkage_is_plain(step, *problem, tolerance=1e-15)


@given(projection_problems(near_duplicates=True), st.sampled_from(METHODS))
def test_a_clamp_at_zero_is_plain_accumulation(problem, method):
    step = step_with(ProjectionConfig(method=method, max_removed=0))
    testing.assert_no_shrinkage_is_plain(step, *problem, tolerance=1e-15)


@given(gram_problems(near_duplicates=True), st.sampled_from(GRAM_METHODS))
def test_removing_nothing_leaves_the_advantages_alone(problem, method):
    for options in ({"shrinkage": 0}, {"max_removed": 0}):
        assert torch.equal(corrected_advantages(*problem, ProjectionConfig(method, **options)), problem.advantages)


@given(projection_problems(balanced=True), st.sampled_from(["exact", "qr"]))
def test_sequences_with_zero_advantage_still_remove_their_directions(problem, method):
    """What is removed depends on the advantages through the clamp alone."""
    config = ProjectionConfig(method=method, max_removed=None)
    result = accumulate(problem.running, problem.seq_grads, torch.zeros_like(problem.advantages), config)
    expected = project(problem.running, problem.seq_grads, method=method)
    assert norm(result - expected) <= 1e-12 * norm(problem.running)


@given(projection_problems(balanced=True, near_duplicates=True), st.sampled_from(METHODS), st.floats(0, 1e3))
def test_advantages_that_are_all_zero_do_nothing_under_the_clamp(problem, method, max_removed):
    config = ProjectionConfig(method=method, max_removed=max_removed)
    result = accumulate(problem.running, problem.seq_grads, torch.zeros_like(problem.advantages), config)
    assert torch.equal(result, problem.running)


def test_one_zero_advantage_among_others_under_the_clamp():
    running = torch.tensor([1.0, 1.0, 1.0]).double()
    seq_grads, advantages = torch.eye(3)[:2].double(), torch.tensor([9.0, 0.0]).double()
    result = accumulate(running, seq_grads, advantages, ProjectionConfig())
    torch.testing.assert_close(result, torch.tensor([9.0, 0.0, 1.0]).double())


def test_the_order_of_microbatches_matters_and_none_is_one_large_batch():
    """S_1 = (1, 0) then S_2 = (1, 1) / sqrt 2 leaves another gradient than S_2 then S_1, or than both at once."""
    seq_grads = torch.tensor([[1.0, 0.0], [math.sqrt(0.5), math.sqrt(0.5)]]).double()
    config, one = ProjectionConfig(method="exact", max_removed=None), torch.ones(1).double()

    def in_order(*order):
        running = None
        for index in order:
            running = accumulate(running, seq_grads[index : index + 1], one, config)
        return running

    large_batch = accumulate(None, seq_grads, torch.ones(2).double(), config)
    torch.testing.assert_close(in_order(0, 1), torch.tensor([0.5, -0.5]).double() + seq_grads[1])
    torch.testing.assert_close(in_order(1, 0), torch.tensor([0.0, math.sqrt(0.5)]).double() + seq_grads[0])
    torch.testing.assert_close(large_batch, seq_grads.sum(0))


@given(projection_problems(balanced=True), CLAMPS)
def test_the_order_within_a_microbatch_does_not_matter_to_the_exact_method(problem, max_removed):
    config = ProjectionConfig(method="exact", max_removed=max_removed)
    expected = accumulate(*problem, config)
    result = accumulate(problem.running, problem.seq_grads.flip(0), problem.advantages.flip(0), config)
    assert norm(result - expected) <= 1e-10 * parts(problem)


@given(gram_problems(), gram_problems(), configs())
def test_several_microbatches_live_in_coefficient_space(first, second, config):
    """Corrected advantages applied to the overlaps of a later microbatch give the overlaps after the step."""
    size = min(len(first.advantages), len(second.advantages))
    rows, later, running = normal(size, 12), normal(3, 12, seed=1), normal(12, seed=2)
    corrected = corrected_advantages(rows @ rows.T, rows @ running, first.advantages[:size], config)
    after = accumulate(running, rows, first.advantages[:size], config)
    overlaps = later @ running + (later @ rows.T) @ corrected
    torch.testing.assert_close(overlaps, later @ after, rtol=1e-9, atol=1e-9 * float(first.advantages.abs().max() + 1))
