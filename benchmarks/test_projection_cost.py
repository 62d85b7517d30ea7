"""The projection alone, on sequence gradients that are written out: what each method costs, and how exact it is.

Everything is measured against ``A += sum_i a_i S_i``, the plain accumulation that any method ends with.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.literal import project_by_qr, project_iteratively
from benchmarks.settings import Settings
from benchmarks.timing import Contest
from proma_bench import ProjectionConfig, project
from proma_bench.backward.products import gram_matrix
from proma_bench.projection.gram import removal

PLAIN = "plain accumulation"
SWEEPS = (1, 2, 4, 8, 16, 32, 64)
ROUNDING = 1e-12
CHUNK = 2**18  # columns of S at a time in float64
SHARED = 0.5  # of every sequence gradient's variance is common to all: sequences of one prompt resemble each other


class Problem(NamedTuple):
    """A running gradient that lies partly in the span of the sequence gradients, and the solve's inputs from both."""

    running: Tensor
    seq_grads: Tensor
    advantages: Tensor
    gram: Tensor
    overlap: Tensor

    @property
    def point(self) -> dict[str, int]:
        return {"sequences": len(self.seq_grads), "elements": self.running.numel()}


def make_problem(sequences: int, shape: tuple[int, int], device: torch.device, shared: float = SHARED) -> Problem:
    generator = torch.Generator().manual_seed(sequences)
    seq_grads = torch.randn(sequences, *shape, generator=generator)
    seq_grads = (1 - shared) ** 0.5 * seq_grads + shared**0.5 * torch.randn(shape, generator=generator)
    advantages = torch.randn(sequences, generator=generator)
    coefficients = torch.randn(sequences, generator=generator) / sequences**0.5
    running = torch.randn(shape, generator=generator) + torch.tensordot(coefficients, seq_grads, dims=1)
    running, seq_grads, advantages = running.to(device), seq_grads.to(device), advantages.to(device)
    rows = seq_grads.flatten(1)
    return Problem(running, seq_grads, advantages, gram_matrix(rows), rows @ running.flatten())


def span_weights(gram: Tensor, overlap: Tensor, method: str, sweeps: int = 2) -> Tensor:
    """``w`` with ``P_S A = sum_i w_i S_i``, in float64."""
    config = ProjectionConfig(method, sweeps=sweeps, max_removed=None)
    return removal(gram, overlap, torch.zeros_like(overlap), config).coefficients


def project_in_b_dimensions(problem: Problem, method: str, sweeps: int = 2) -> Tensor:
    """``A - P_S A`` by one pass for K and c, a solve of B × B, and one pass over S for the contraction."""
    rows, flat = problem.seq_grads.flatten(1), problem.running.flatten()
    weights = span_weights(gram_matrix(rows), rows @ flat, method, sweeps).to(rows.dtype)
    return torch.addmv(flat, rows.T, weights, alpha=-1).view_as(problem.running)


METHODS: dict[str, Callable[[Problem], Tensor]] = {
    "QR of the stack": lambda problem: project_by_qr(problem.running, list(problem.seq_grads)),
    "iterative, literal loop": lambda problem: project_iteratively(problem.running, list(problem.seq_grads), 2),
    **{
        f"{method}, B dimensions": lambda problem, method=method: project_in_b_dimensions(problem, method)
        for method in ("exact", "iterative", "ridge")
    },
    **{
        f"{method}, project() in float64": lambda problem, method=method: project(
            problem.running, problem.seq_grads, method=method
        )
        for method in ("exact", "iterative")
    },
}
SOLVES = ("exact", "iterative", "ridge")


def contenders(problem: Problem) -> dict[str, Callable[[], object]]:
    flat, rows = problem.running.flatten().clone(), problem.seq_grads.flatten(1)
    calls: dict[str, Callable[[], object]] = {PLAIN: lambda: flat.addmv_(rows.T, problem.advantages)}
    for name, method in METHODS.items():
        calls[name] = lambda method=method: method(problem)
    for name in SOLVES:
        config = ProjectionConfig(name)
        calls[f"{name}, the solve alone"] = lambda config=config: removal(
            problem.gram, problem.overlap, problem.advantages, config
        )
    return calls


def exact_component(problem: Problem) -> Tensor:
    """``P_S A`` in float64, chunk by chunk: the largest stack would not fit in memory twice."""
    rows, flat = problem.seq_grads.flatten(1), problem.running.flatten()
    chunks = [slice(start, start + CHUNK) for start in range(0, len(flat), CHUNK)]
    gram = sum(rows[:, c].double() @ rows[:, c].double().T for c in chunks)

    def weights_of(vector: Tensor) -> Tensor:
        return span_weights(gram, sum(rows[:, c].double() @ vector[c] for c in chunks), "exact")

    def combination(weights: Tensor) -> Tensor:
        return torch.cat([weights @ rows[:, c].double() for c in chunks])

    component = combination(weights_of(flat.double()))
    return (component + combination(weights_of(flat.double() - component))).view_as(problem.running)


def errors(problem: Problem) -> dict[str, float]:
    """The distance of each result from the exact projection in float64, relative to the norm of what that removes."""
    component = exact_component(problem)
    wanted = problem.running.double() - component
    return {
        name: float((method(problem).double() - wanted).norm() / component.norm()) for name, method in METHODS.items()
    }


def fitted_exponent(sizes: list[int], seconds: list[float]) -> float:
    """``p`` in ``seconds ~ sizes ** p``, by least squares on logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def sweep_cost(axis: str, problems: list[Problem], benchmark: Any, store: Any, settings: Settings) -> None:
    """Time all methods on all problems, in turn, and fit how the cost grows along the axis."""
    contests = [Contest(contenders(problem), PLAIN, settings.device) for problem in problems]
    rounds = settings.rounds_for(sum(contest.warm_up() for contest in contests))

    def one_round() -> None:
        for contest in contests:
            contest.round()

    benchmark.pedantic(one_round, rounds=rounds, iterations=1)
    points = []
    for problem, contest in zip(problems, contests, strict=True):
        entries = {name: timing.to_json() for name, timing in contest.result().items()}
        points.append({**problem.point, "contenders": entries, "errors": errors(problem)})
    sizes = [point[axis] for point in points]
    exponents = {
        name: fitted_exponent(sizes, [point["contenders"][name]["seconds"] for point in points])
        for name in points[0]["contenders"]
    }
    store(
        f"projection: cost against {axis}",
        "projection",
        axis=axis,
        points=points,
        exponents=exponents,
        baseline=PLAIN,
        rounds=rounds,
    )


def test_cost_against_sequences(benchmark: Any, store: Any, settings: Settings) -> None:
    counts = (2, 4, 8, 16, 32, 64) if settings.full else (2, 8, 64)
    shape = (1024, 1024) if settings.full else (48, 64)
    problems = [make_problem(count, shape, settings.device) for count in counts]
    sweep_cost("sequences", problems, benchmark, store, settings)


def test_cost_against_size(benchmark: Any, store: Any, settings: Settings) -> None:
    full = [(128, 128), (256, 256), (512, 512), (1024, 1024), (3072, 1024)]
    shapes = full if settings.full else [(32, 32), (64, 64), (192, 64)]
    problems = [make_problem(8, shape, settings.device) for shape in shapes]
    sweep_cost("elements", problems, benchmark, store, settings)


def test_cost_at_the_largest(benchmark: Any, store: Any, settings: Settings) -> None:
    if not settings.full:
        pytest.skip("the largest projection belongs to the full form")
    problem = make_problem(64, (3072, 1024), settings.device)
    contest = Contest(contenders(problem), PLAIN, settings.device)
    rounds = settings.rounds_for(contest.warm_up())
    benchmark.pedantic(contest.round, rounds=rounds, iterations=1)
    entries = {name: timing.to_json() for name, timing in contest.result().items()}
    point = {**problem.point, "contenders": entries, "errors": errors(problem)}
    store(
        "projection: the largest", "projection", axis=None, points=[point], exponents={}, baseline=PLAIN, rounds=rounds
    )


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9], ids=lambda shared: f"shared-{shared}")
def test_error_against_sweeps(shared: float, benchmark: Any, store: Any, settings: Settings) -> None:
    """The iterative method's error, for gradients that have no, half, or most of their variance in common."""
    shape = (256, 256) if settings.full else (48, 64)

    def curves() -> dict[str, dict[str, list[float]]]:
        return {
            str(count): _errors_over_sweeps(make_problem(count, shape, settings.device, shared)) for count in (8, 64)
        }

    result = benchmark.pedantic(curves, rounds=1, iterations=1)
    store(f"error against sweeps: shared {shared}", "sweeps", shared=shared, sweeps=list(SWEEPS), curves=result)
    for by_type in result.values():
        errors = by_type["float64"]
        assert all(later <= earlier + ROUNDING for earlier, later in itertools.pairwise(errors)), "an error has grown"


def _errors_over_sweeps(problem: Problem) -> dict[str, list[float]]:
    """In B dimensions, with K and c in float32 as the engine has them, and in float64."""
    component = exact_component(problem)
    wanted = problem.running.double() - component
    wide = problem._replace(running=problem.running.double(), seq_grads=problem.seq_grads.double())
    return {
        name: [
            float((project_in_b_dimensions(case, "iterative", sweeps).double() - wanted).norm() / component.norm())
            for sweeps in SWEEPS
        ]
        for name, case in (("float32", problem), ("float64", wide))
    }
