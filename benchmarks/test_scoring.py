"""Seconds per scored answer: the library's scorer in this process, and in the one without privileges."""

from __future__ import annotations

from typing import Any

import pytest
import reasoning_gym
from reasoning_gym.factory import DATASETS

from benchmarks.settings import Settings
from proma_bench.tasks.admission import is_admitted
from proma_bench.tasks.worker import Worker

DIRECT, CHECKED, WORKER = "scorer, in this process", "check of the answer's form", "process without privileges"
TASKS = ("chain_sum", "countdown", "simple_integration")


@pytest.mark.parametrize("name", TASKS)
def test_scored_answers(name: str, compare: Any, benchmark: Any, settings: Settings) -> None:
    options = {"seed": 0, "size": 64 if settings.full else 8}
    dataset = reasoning_gym.create_dataset(name, **options)
    entries = list(dataset)
    worker = Worker(name, DATASETS[name][0].__module__, options)
    contenders = {
        DIRECT: lambda: [dataset.score_answer(entry["answer"], entry) for entry in entries],
        CHECKED: lambda: [is_admitted(name, entry["answer"], entry["answer"]) for entry in entries],
        WORKER: lambda: [worker.is_right(entry, entry["answer"]) for entry in entries],
    }
    assert all(contenders[WORKER]())
    result = compare(f"scored answers: {name}", "scoring", contenders, DIRECT, answers=len(entries))
    worker.close()
    milliseconds = {who: 1000 * timing.seconds / len(entries) for who, timing in result.items()}
    benchmark.extra_info["milliseconds_per_answer"] = milliseconds
    print({who: f"{value:.3f} ms" for who, value in milliseconds.items()})
