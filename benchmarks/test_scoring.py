"""Milliseconds per scored answer: the library's scorer in this process, and in the one without privileges.

Wall-clock time, since most of the second one passes in other processes. On a machine that is busy it is mostly waiting;
there, the processor time of these processes tells more.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any

import pytest
import reasoning_gym
from reasoning_gym.factory import DATASETS

from benchmarks.conftest import Store
from benchmarks.settings import Settings
from proma_bench.tasks.admission import is_admitted
from proma_bench.tasks.worker import Worker

DIRECT, FORM, WORKER = "scorer, in this process", "check of the answer's form", "process without privileges"
TASKS = ("chain_sum", "countdown", "simple_integration")


@pytest.mark.parametrize("how", [DIRECT, FORM, WORKER])
@pytest.mark.parametrize("name", TASKS)
def test_scored_answers(name: str, how: str, store: Store, benchmark: Any, settings: Settings) -> None:
    options = {"seed": 0, "size": 64 if settings.full else 8}
    dataset = reasoning_gym.create_dataset(name, **options)
    entries = list(dataset)
    worker = Worker(name, DATASETS[name][0].__module__, options)
    score: Callable[[dict[str, Any]], object] = {
        DIRECT: lambda entry: dataset.score_answer(entry["answer"], entry) >= 1,
        FORM: lambda entry: is_admitted(name, entry["answer"], entry["answer"]),
        WORKER: lambda entry: worker.is_right(entry, entry["answer"]),
    }[how]
    assert all(map(score, entries))
    benchmark.pedantic(lambda: [score(entry) for entry in entries], rounds=20 if settings.full else 5, iterations=1)
    worker.close()
    fastest, median = (1000 * seconds / len(entries) for seconds in (benchmark.stats["min"], benchmark.stats["median"]))
    store(f"scored answers: {name}, {how}", "scoring", fastest=fastest, median=median)
    print(f"{name}, {how}: {fastest:.3f} ms, median {median:.3f} ms")


@pytest.mark.parametrize("name", TASKS)
def test_processor_time(name: str, store: Store, benchmark: Any) -> None:
    options = {"seed": 0, "size": 8}
    entry = reasoning_gym.create_dataset(name, **options)[0]

    def seconds(answers: int) -> float:
        """Of a process that starts and scores some answers, and of its children."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        worker = Worker(name, DATASETS[name][0].__module__, options)
        assert all(worker.is_right(entry, entry["answer"]) for _ in range(answers))
        worker.close()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    start = seconds(1)
    processor = 1000 * (benchmark.pedantic(seconds, args=(61,), rounds=1) - start) / 60
    store(f"processor time of scored answers: {name}", "scoring", start=start, processor=processor)
    print(f"{name}: {processor:.1f} ms of processor time per answer, {start:.1f} s for the start")
