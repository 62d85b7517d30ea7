"""Forward and backward pass with PROMA against plain autograd and the literal hooks; memory; small policies' steps.

Timed are second and later microbatches of a step: the first has nothing to project.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from benchmarks import policies
from benchmarks.conftest import SETTINGS
from benchmarks.hotspots import seconds_by_operator
from benchmarks.memory import peak_bytes
from benchmarks.microbatches import PLAIN, Microbatch, literal, ours, plain
from benchmarks.published import check_no_gross_regression
from benchmarks.settings import Settings
from benchmarks.works import Case, Work, layer_cases, memory_cases, memory_limit, model_cases, sharing_copy
from proma_bench import ProjectionConfig, Proma

METHODS = ("iterative", "exact")
SLACK = 1.05  # on the workspace's limit


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    settings = metafunc.config.stash[SETTINGS]
    cases = {
        "case": lambda: [*layer_cases(settings), *model_cases(settings)],
        "memory_case": lambda: memory_cases(settings),
        "small_case": lambda: policies.CASES,
    }
    for name in cases.keys() & set(metafunc.fixturenames):
        found = cases[name]()
        metafunc.parametrize(name, found, ids=[case.id for case in found])


def test_overhead(case: Case, compare: Any, settings: Settings) -> None:
    work = case.make()
    original = work.module()
    contenders = {PLAIN: plain(work, sharing_copy(original))}
    if work.linear_only or not work.layer:
        contenders["literal hooks, iterative"] = literal(work, sharing_copy(original), "iterative")
    if work.linear_only:
        contenders["literal hooks, QR"] = literal(work, sharing_copy(original), "qr")
    for method in METHODS:
        contenders[f"PROMA {method}"] = ours(work, sharing_copy(original), method)
    compare(
        f"backward: {case.name}",
        "backward",
        contenders,
        PLAIN,
        sizes=work.sizes,
        layer=work.layer,
        gram_methods=gram_methods(work, sharing_copy(original)),
        hotspots={
            name: seconds_by_operator(contenders[name], settings.device) for name in (PLAIN, f"PROMA {METHODS[0]}")
        },
    )


def test_overhead_has_not_grossly_regressed(case: Case, published: Any, measured: Any) -> None:
    check_no_gross_regression(f"backward: {case.name}", measured, published)


def test_memory(memory_case: Case, benchmark: Any, store: Any, settings: Settings) -> None:
    """Over plain autograd, at most the workspace's limit and 5 % more."""
    work, limit = memory_case.make(), memory_limit(settings)
    original = work.module()
    makers: dict[str, Callable[[nn.Module], Microbatch]] = {PLAIN: lambda module: plain(work, module)}
    if work.linear_only or not work.layer:
        makers["literal hooks, iterative"] = lambda module: literal(work, module, "iterative")
    for method in METHODS:
        makers[f"PROMA {method}"] = lambda module, method=method: ours(work, module, method, workspace_bytes=limit)

    def measure() -> dict[str, int]:
        return {name: peak_bytes(two_microbatches(original, make), settings.device) for name, make in makers.items()}

    peaks = benchmark.pedantic(measure, rounds=1, iterations=1)
    extra = {name: peak - peaks[PLAIN] for name, peak in peaks.items() if name != PLAIN}
    store(
        f"memory: {memory_case.name}", "memory", sizes=work.sizes, workspace_bytes=limit, peak_bytes=peaks, extra=extra
    )
    for method in METHODS:
        assert extra[f"PROMA {method}"] <= SLACK * limit


def test_optimizer_step(small_case: policies.SmallCase, compare: Any, settings: Settings) -> None:
    small = small_case.make(settings)
    sizes = {
        "parameters": sum(p.numel() for p in small.policy.parameters()),
        "sequences": len(small.whole.advantages),
        "microbatch": policies.MICROBATCH,
    }
    name = f"optimizer step: {small_case.name}, {sizes['sequences']} sequences"
    compare(name, "small", policies.contenders(small), "REINFORCE", sizes=sizes)


def test_optimizer_step_has_not_grossly_regressed(
    small_case: policies.SmallCase, published: Any, measured: Any
) -> None:
    names = [name for name in measured if name.startswith(f"optimizer step: {small_case.name},")]
    check_no_gross_regression(names[0] if names else small_case.name, measured, published)


# --------------------------------------------------------------------------------------------- one microbatch each


def two_microbatches(original: nn.Module, make: Callable[[nn.Module], Microbatch]) -> Callable[[], None]:
    """From no gradient and no workspace to the end of the second microbatch, everything that is allocated counts."""

    def run() -> None:
        microbatch = make(sharing_copy(original))
        microbatch()
        microbatch()

    return run


def gram_methods(work: Work, module: nn.Module) -> dict[str, str]:
    """How the engine measured each parameter; those that differ in the number of their block only are one entry."""
    found: dict[str, set[str]] = {}
    with Proma(module, ProjectionConfig(), record=True) as proma:
        for _ in range(2):
            output = work.forward(module)
            with proma.microbatch(work.advantages):
                work.backward(output)
        for record in proma.stats():
            found.setdefault(re.sub(r"\.\d+\.", ".*.", record.parameter), set()).add(record.gram_method)
    return {parameter: " / ".join(sorted(taken)) for parameter, taken in found.items()}
