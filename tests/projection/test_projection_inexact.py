"""The contracts of the iterative and the ridge method."""

import functools
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from projection_oracles import (
    literal_exact,
    literal_ridge,
    literal_subtraction,
    norm,
    normal,
    of_any_type,
    rows_of,
    units_of,
)

from proma_bench import testing
from proma_bench.projection.literal import project
from proma_bench.projection.solve import RIDGE_SHIFT
from proma_bench.testing import projection_problems


def with_method(method, sweeps=2):
    return functools.partial(project, method=method, sweeps=sweeps)


# --------------------------------------------------------------------------------------------------- iterative


@pytest.mark.parametrize("method", ["iterative", "ridge"])
@given(of_any_type(near_duplicates=True), st.integers(1, 4))
def test_inexact_methods_keep_the_weaker_promises(method, problem, sweeps):
    for invariant in testing.INEXACT_INVARIANTS:
        invariant(with_method(method, sweeps), problem.running, problem.seq_grads)


@given(projection_problems(near_duplicates=True), st.integers(1, 5))
def test_iterative_is_the_literal_subtraction_loop(problem, sweeps):
    result = project(problem.running, problem.seq_grads, method="iterative", sweeps=sweeps)
    expected = literal_subtraction(problem.running, problem.seq_grads, sweeps)
    assert norm(result - expected) <= 1e-13 * sweeps * len(problem.seq_grads) * norm(problem.running)


@given(projection_problems(near_duplicates=True))
def test_iterative_two_sweeps_are_two_single_sweeps(problem):
    once = with_method("iterative", sweeps=1)
    twice = once(once(problem.running, problem.seq_grads), problem.seq_grads)
    assert norm(project(problem.running, problem.seq_grads, method="iterative") - twice) <= 1e-12 * norm(
        problem.running
    )


@given(projection_problems(near_duplicates=True))
def test_iterative_never_moves_away_from_the_exact_result(problem):
    exact = project(problem.running, problem.seq_grads, method="qr")
    distances = [
        norm(project(problem.running, problem.seq_grads, method="iterative", sweeps=sweeps) - exact)
        for sweeps in (1, 2, 3, 6, 20)
    ]
    # Nearly dependent gradients leave the exact result itself uncertain by what lies below the rank cut.
    slack = testing.worst_case_tolerance(problem.running, problem.seq_grads) * norm(problem.running)
    assert all(later <= sooner + slack for sooner, later in itertools.pairwise(distances))


@given(projection_problems(), st.integers(1, 100))
def test_iterative_converges_to_the_exact_result_at_the_rate_of_gauss_seidel(problem, sweeps):
    """A sweep shrinks the distance by ``sqrt(1 - l / ||L||^2)`` or more.

    ``L`` is the lower triangle of the normalised Gram matrix and ``l`` its smallest eigenvalue that is not zero: in the
    norm of K, the error e of a sweep loses ``||L^-1 K e||^2``, which is at least ``(l / ||L||^2) ||e||_K^2``.
    """
    units = units_of(problem.seq_grads)
    exact = literal_exact(problem.running, problem.seq_grads)
    distance = norm(project(problem.running, problem.seq_grads, method="iterative", sweeps=sweeps) - exact)
    gram = units @ units.T
    eigenvalues = torch.linalg.eigvalsh(gram)
    smallest = min([float(value) for value in eigenvalues if value > 1e-6], default=1.0)
    lower = float(torch.linalg.matrix_norm(gram.tril(), ord=2)) if len(units) else 1.0
    rate = math.sqrt(1 - smallest / max(lower, 1.0) ** 2)
    assert distance <= (rate**sweeps + 1e-12) * norm(problem.running)


def test_iterative_goes_to_the_exact_result():
    running, seq_grads = normal(5, 6), normal(4, 5, 6, seed=1)
    exact = project(running, seq_grads)
    distances = [norm(project(running, seq_grads, method="iterative", sweeps=sweeps) - exact) for sweeps in (1, 2, 60)]
    assert distances[0] > distances[1] > 1e-6
    assert distances[2] < 1e-12


@pytest.mark.parametrize("sweeps", [1, 2, 3])
@given(data=st.data())
def test_iterative_is_exact_for_orthogonal_gradients(sweeps, data):
    problem = data.draw(projection_problems(repeats=False))
    seq_grads = _orthogonal_like(problem.seq_grads)
    result = project(problem.running, seq_grads, method="iterative", sweeps=sweeps)
    assert norm(result - literal_exact(problem.running, seq_grads)) <= 1e-12 * norm(problem.running)


def _orthogonal_like(seq_grads):
    """Mutually orthogonal gradients of the same norms, with as many zeros as do not fit the dimension."""
    rows = rows_of(seq_grads)
    orthogonal = torch.zeros_like(rows)
    count = min(rows.shape)
    orthogonal[:count] = torch.linalg.qr(normal(rows.shape[1], count, seed=2)).Q.T
    return (orthogonal * torch.linalg.vector_norm(rows, dim=1, keepdim=True)).reshape(seq_grads.shape)


# ------------------------------------------------------------------------------------------------------- ridge


@given(projection_problems(near_duplicates=True))
def test_ridge_is_the_literal_formula(problem):
    result = project(problem.running, problem.seq_grads, method="ridge")
    assert norm(result - literal_ridge(problem.running, problem.seq_grads)) <= 1e-12 * norm(problem.running)


def test_ridge_leaves_one_part_in_a_hundred_and_one_of_a_single_direction():
    """The constant is the published code's: an eigenvalue of 1 keeps 0.01 / 1.01 of the component."""
    left = project(torch.tensor([3.0, 4.0]).double(), torch.tensor([[7.0, 0.0]]).double(), method="ridge")
    assert RIDGE_SHIFT == 0.01
    torch.testing.assert_close(left, torch.tensor([3.0 * 0.01 / 1.01, 4.0]).double())
