"""The test set: read once, when training is over, by those who ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proma_bench import checkpoints
from proma_bench.config import RunConfig
from proma_bench.errors import RunError
from proma_bench.language import LanguagePolicy
from proma_bench.runs import read_run, write_json
from proma_bench.tiers.llm import LLM
from proma_bench.train import Training


def score_test_set(path: Path, config: RunConfig) -> dict[str, Any]:
    """The scores of a finished run's policy on its rung's test set, also written to ``path/test.json``.

    Raises UsageError for a task without a test set, RunError for a run without its last checkpoint.
    """
    training = Training(config)
    assert isinstance(training.tier, LLM) and isinstance(training.policy, LanguagePolicy), "no other has a test set"
    problems = checkpoints.restore(path / "checkpoint", training, last_step=len(read_run(path).metrics))
    if training.step < config.steps:
        raise RunError("; ".join([*problems, f"{path} has no checkpoint of step {config.steps}"]))
    scores: dict[str, Any] = training.tier.test(training.policy)
    write_json(path / "test.json", scores)
    return scores
