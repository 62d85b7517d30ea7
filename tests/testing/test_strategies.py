"""Strategies draw what they promise: hostile inputs of every kind, whose rank is clear."""

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st
from projection_oracles import unit_rows

from proma_bench import testing

quickly = settings(max_examples=2000, derandomize=True, database=None)


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
