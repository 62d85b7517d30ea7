"""The contracts of `project` and of its configuration: the exact methods."""

import functools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from projection_oracles import METHODS, literal_exact, norm, normal, of_any_type

from proma_bench import testing
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.literal import project
from proma_bench.projection.solve import rank_tolerance
from proma_bench.testing import projection_problems


def with_method(method, sweeps=2):
    return functools.partial(project, method=method, sweeps=sweeps)


# ---------------------------------------------------------------------------------------------- exact (and QR)


@pytest.mark.parametrize("method", ["exact", "qr"])
@given(of_any_type())
def test_exact_methods_keep_every_promise(method, problem):
    for invariant in testing.EXACT_INVARIANTS:
        invariant(with_method(method), problem.running, problem.seq_grads)


@pytest.mark.parametrize("method", ["exact", "qr"])
@given(projection_problems())
def test_exact_is_the_orthogonal_projection(method, problem):
    expected = literal_exact(problem.running, problem.seq_grads)
    result = project(problem.running, problem.seq_grads, method=method)
    assert norm(result - expected) <= 1e-12 * norm(problem.running)


@given(projection_problems())
def test_exact_is_orthogonal_to_rounding_when_the_rank_is_clear(problem):
    testing.assert_orthogonal_to(project, problem.running, problem.seq_grads, tolerance=1e-13)
    testing.assert_norm_not_increased(project, problem.running, problem.seq_grads, tolerance=1e-13)


@pytest.mark.parametrize("method", ["exact", "qr"])
@given(projection_problems(near_duplicates=True))
def test_exact_is_orthogonal_however_nearly_dependent_the_gradients(method, problem):
    fn = with_method(method)
    cut = rank_tolerance(len(problem.seq_grads), torch.float64)
    testing.assert_orthogonal_to(fn, problem.running, problem.seq_grads, tolerance=math.sqrt(cut))
    testing.assert_norm_not_increased(fn, problem.running, problem.seq_grads)
    testing.assert_in_span(fn, problem.running, problem.seq_grads)
    testing.assert_finite(fn, problem.running, problem.seq_grads)


@pytest.mark.parametrize("angle", [1e-1, 1e-3, 1e-5])
@given(seed=st.integers(0, 2**20))
def test_exact_is_orthogonal_to_rounding_at_small_angles_too(angle, seed):
    """One pass leaves about eps / angle; the second removes that as well."""
    seq_grads, running = normal(4, 30, seed=seed), normal(30, seed=seed + 1)
    seq_grads[3] = seq_grads[0] + angle * normal(30, seed=seed + 2)
    testing.assert_orthogonal_to(project, running, seq_grads, tolerance=5e-15)


@given(st.data())
def test_exact_removes_everything_when_sequences_span_the_parameters(data):
    shape = data.draw(testing.shapes(max_side=2))
    size = math.prod(shape)
    problem = data.draw(projection_problems(shape=shape, sequences=size + data.draw(st.integers(0, 3)), rank=size))
    assert norm(project(problem.running, problem.seq_grads)) <= 1e-12 * norm(problem.running)


@pytest.mark.parametrize("method", METHODS)
def test_a_near_duplicate_is_a_direction_of_its_own_above_the_cut_only(method):
    """Two gradients at an angle of 1e-3 span a plane, at 1e-9 a line; only the exact methods reach the plane."""
    running = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    left = {
        angle: norm(project(running, torch.tensor([[1.0, 0.0, 0.0], [1.0, angle, 0.0]]).double(), method=method))
        for angle in (1e-3, 1e-9)
    }
    assert left[1e-9] == pytest.approx(1.0, abs=1e-3)
    assert left[1e-3] == pytest.approx(0.0 if method in ("exact", "qr") else 1.0, abs=1e-4)


# ----------------------------------------------------------------------------------------------- configuration


@pytest.fixture
def without_type_checker(monkeypatch):
    """As for users: wrong types reach our own messages."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)


@pytest.mark.usefixtures("without_type_checker")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "exat"}, "unknown projection method 'exat'; did you mean 'exact'?"),
        ({"method": "iterat"}, "did you mean 'iterative'"),
        ({"sweeps": 0}, "sweeps must be a whole number of at least 1, got 0"),
        ({"sweeps": -3}, "got -3"),
        ({"sweeps": 1.5}, "got 1.5"),
        ({"sweeps": True}, "got True"),
        ({"rank": -1}, "rank must be a whole number of at least 0, got -1"),
        ({"rank": 1.5}, "got 1.5"),
        ({"rank": True}, "got True"),
        ({"max_removed": -0.1}, "max_removed must be None (no clamp) or a finite number >= 0, got -0.1"),
        ({"max_removed": math.nan}, "got nan"),
        ({"max_removed": math.inf}, "got inf"),
        ({"shrinkage": -0.01}, "shrinkage must lie between 0 (plain accumulation) and 1, got -0.01"),
        ({"shrinkage": 1.01}, "got 1.01"),
        ({"shrinkage": math.nan}, "got nan"),
    ],
    ids=str,
)
def test_a_config_out_of_range_says_what_is_wrong(options, message):
    with pytest.raises(ValueError) as error:
        ProjectionConfig(**options)
    assert message in str(error.value)


def test_the_ends_of_every_range_are_allowed():
    for method in METHODS:
        ProjectionConfig(method=method, sweeps=1, max_removed=0, shrinkage=0)
        ProjectionConfig(method=method, sweeps=1000, max_removed=None, shrinkage=1)


def test_the_defaults_are_those_of_the_paper():
    assert ProjectionConfig() == ProjectionConfig("iterative", 2, 0.5, 1.0)


@pytest.mark.usefixtures("without_type_checker")
def test_project_rejects_what_the_config_rejects():
    with pytest.raises(ValueError, match="did you mean 'ridge'"):
        project(normal(3), normal(2, 3), method="rigde")
    with pytest.raises(ValueError, match="sweeps must be a whole number of at least 1"):
        project(normal(3), normal(2, 3), method="iterative", sweeps=0)
