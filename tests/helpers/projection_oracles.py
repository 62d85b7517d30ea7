"""Slow, obviously correct projections, and what the tests of `proma_bench.projection` share."""

import torch
from hypothesis import strategies as st

from proma_bench.projection.config import ProjectionConfig
from proma_bench.testing import projection_problems

METHODS = ("exact", "qr", "iterative", "ridge")
GRAM_METHODS = ("exact", "iterative", "ridge")
NARROW = (torch.float32, torch.bfloat16, torch.float16)
FLOATS = (torch.float64, *NARROW)
CLAMPS = st.one_of(st.none(), st.sampled_from([0.0, 0.5]), st.floats(0, 3))
EPS = torch.finfo(torch.float64).eps


def of_any_type(**options):
    return st.one_of([projection_problems(dtype=dtype, **options) for dtype in FLOATS])


def configs(methods=GRAM_METHODS):
    return st.builds(
        ProjectionConfig,
        method=st.sampled_from(methods),
        sweeps=st.integers(1, 3),
        max_removed=CLAMPS,
        shrinkage=st.one_of(st.just(1.0), st.floats(0, 1)),
    )


def norm(tensor):
    return float(torch.linalg.vector_norm(tensor.double()))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def combine(coefficients, seq_grads):
    return torch.tensordot(coefficients, seq_grads.double(), dims=1)


def gram_of(problem):
    rows = problem.seq_grads.double().reshape(len(problem.seq_grads), -1)
    return rows @ rows.T, rows @ problem.running.double().flatten()


def parts(problem):
    """The sum of the norms of all that a step adds up; parts that cancel leave rounding of this size behind."""
    return norm(problem.running) + sum(
        abs(float(a)) * norm(s) for a, s in zip(problem.advantages, problem.seq_grads, strict=True)
    )


def rows_of(seq_grads):
    return seq_grads.double().reshape(len(seq_grads), -1)


def units_of(seq_grads):
    """Unit sequence gradients, without the zero ones."""
    rows = rows_of(seq_grads)
    rows = rows[rows.abs().amax(1) > 0]
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def literal_exact(running, seq_grads):
    """The part of A orthogonal to every right singular vector of the unit gradients: the oracle of the exact one."""
    _, singular, right = torch.linalg.svd(units_of(seq_grads), full_matrices=False)
    basis, flat = right[singular > 1e-6], running.double().flatten()
    return (flat - basis.T @ (basis @ flat)).reshape(running.shape)


def literal_subtraction(running, seq_grads, sweeps):
    """The paper's loop, one sequence gradient after another: the oracle of the iterative method."""
    left = running.double().flatten()
    for _ in range(sweeps):
        for unit in units_of(seq_grads):
            left = left - (left @ unit) * unit
    return left.reshape(running.shape)


def literal_ridge(running, seq_grads):
    """``A - S'(SS' + 0.01 I)^-1 S A`` on unit gradients: the oracle of the ridge method."""
    units, flat = units_of(seq_grads), running.double().flatten()
    weights = torch.linalg.inv(units @ units.T + 0.01 * torch.eye(len(units), dtype=torch.float64)) @ (units @ flat)
    return (flat - weights @ units).reshape(running.shape)


def unit_rows(seq_grads):
    rows = seq_grads.double().reshape(len(seq_grads), -1)
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)
