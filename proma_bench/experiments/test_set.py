"""The test set: read once, when training is over, by those who ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proma_bench.errors import RunError, UsageError
from proma_bench.experiments.training import Training
from proma_bench.learning.config import RunConfig
from proma_bench.runs import checkpoints
from proma_bench.runs.directory import read_run, write_json


def score_test_set(path: Path, config: RunConfig) -> dict[str, Any]:
    """The scores of a finished run's policy on its task's test set, also written to ``path/test.json``.

    Raises:
        UsageError: the task has no test set.
        RunError: the run has no checkpoint of its last step.
    """
    training = Training(config)
    test = getattr(training.tier, "test", None)
    if test is None:
        raise UsageError(f"{config.title} has no test set")
    problems = checkpoints.restore(path / "checkpoint", training, last_step=len(read_run(path).metrics))
    if training.step < config.steps:
        raise RunError("; ".join([*problems, f"{path} has no checkpoint of step {config.steps}"]))
    scores: dict[str, Any] = test(training.policy)
    write_json(path / "test.json", scores)
    return scores
