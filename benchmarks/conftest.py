"""Options, interleaved comparisons, and what is stored beside pytest-benchmark's own figures."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from benchmarks.published import published_ratios
from benchmarks.settings import Settings, machine
from benchmarks.timing import Contest, Timing
from proma_bench.experiments.workers import available_cores

SETTINGS = pytest.StashKey[Settings]()
MEASURED = pytest.StashKey[dict[str, dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("proma_bench benchmarks")
    group.addoption("--full", action="store_true", help="the sizes of the published tables (default: quick, for CI)")
    group.addoption("--device", choices=("cpu", "cuda"), default="cpu")
    group.addoption("--dtype", choices=("float32", "bfloat16"), default="float32", help="of parameters and activations")
    group.addoption("--threads", type=int, help="threads of torch (default: all cores with --full, otherwise 1)")


def pytest_configure(config: pytest.Config) -> None:
    device = torch.device(config.getoption("--device"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: there is no GPU that torch can use")
    # Threads wait for one another: on a busy machine, one that is held up makes small operators far slower.
    torch.set_num_threads(config.getoption("--threads") or (available_cores() if config.getoption("--full") else 1))
    config.stash[SETTINGS] = Settings(config.getoption("--full"), device, getattr(torch, config.getoption("--dtype")))
    config.stash[MEASURED] = {}
    config.option.benchmark_quiet = True  # its table is of whole rounds; ours, of ratios, comes at the end


@pytest.fixture(scope="session")
def settings(pytestconfig: pytest.Config) -> Settings:
    return pytestconfig.stash[SETTINGS]


@pytest.fixture(scope="session")
def measured(pytestconfig: pytest.Config) -> dict[str, dict[str, Any]]:
    """What this run has measured so far, by case."""
    return pytestconfig.stash[MEASURED]


@pytest.fixture(scope="session")
def published(settings: Settings) -> dict[str, dict[str, float]]:
    """The stored ratios, by case and contender."""
    if settings.full:
        pytest.skip("the gate belongs to the quick form; the full form is what is published")
    return published_ratios(settings.device.type)


Store = Callable[..., dict[str, Any]]
Compare = Callable[..., dict[str, Timing]]


@pytest.fixture
def store(benchmark: Any, settings: Settings, measured: dict[str, dict[str, Any]]) -> Store:
    """``store(case, suite, **figures)`` keeps figures in the results file, and for the summary at the end."""

    def store(case: str, suite: str, **figures: Any) -> dict[str, Any]:
        info = {"case": case, "suite": suite, "form": settings.form, "device": settings.device.type, **figures}
        benchmark.extra_info.update(info)
        measured[case] = info
        return info

    return store


@pytest.fixture
def compare(benchmark: Any, store: Store, settings: Settings) -> Compare:
    """``compare(case, suite, {name: callable}, baseline, **figures)``: time in turn, store ratios and times.

    What pytest-benchmark itself times is a whole round of all contenders; the figures of each are in ``extra_info``.
    """

    def compare(
        case: str, suite: str, contenders: Mapping[str, Callable[[], object]], baseline: str, **figures: Any
    ) -> dict[str, Timing]:
        contest = Contest(contenders, baseline, settings.device)
        rounds = settings.rounds_for(contest.warm_up())
        benchmark.pedantic(contest.round, rounds=rounds, iterations=1)
        result = contest.result()
        entries = {name: timing.to_json() for name, timing in result.items()}
        store(case, suite, baseline=baseline, rounds=rounds, contenders=entries, **figures)
        return result

    return compare


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    for detail in ("node", "release", "python_build", "cpu"):  # pages of detail that tell a reader nothing
        machine_info.pop(detail, None)
    machine_info.update(machine(config.stash[SETTINGS]))


def pytest_benchmark_update_commit_info(config: pytest.Config, commit_info: dict[str, Any]) -> None:
    for detail in ("project", "branch"):  # names of folders and branches come and go
        commit_info.pop(detail, None)


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: object, output_json: dict[str, Any]) -> None:
    output_json["command"] = shlex.join(["python", "-m", "pytest", *config.invocation_params.args])
    output_json["form"] = config.stash[SETTINGS].form


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The ratios of this run."""
    compared = [info for info in config.stash[MEASURED].values() if "contenders" in info]
    if not compared:
        return
    terminalreporter.section("ratios: median over rounds [quartiles]")
    for info in compared:
        terminalreporter.write_line(f"{info['case']}  (baseline: {info['baseline']}, {info['rounds']} rounds)")
        for name, entry in info["contenders"].items():
            quartiles = f"[{entry['ratio_q1']:.2f}, {entry['ratio_q3']:.2f}]"
            terminalreporter.write_line(f"    {name:36} {entry['ratio']:8.2f} {quartiles}")
