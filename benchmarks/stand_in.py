"""The pretrained stand-in for Qwen3-0.6B: SmolLM2-135M on sums, REINFORCE, GRPO and PROMA at the paper's learning rate.

python -m benchmarks.stand_in MODEL RUNS    run what is missing under RUNS, and store all (11 to 30 minutes a run)

The plan is benchmarks/plans/findings.md; docs/llm.md shows what came out.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

from proma_bench.console import make_console
from proma_bench.experiments.jobs import Job
from proma_bench.experiments.ladder import finish
from proma_bench.runs.directory import Run, read_run, write_json
from proma_bench.tiers.llm.config import LLMConfig

STORED = Path(__file__).parent / "results" / "llm"
METHODS = ("reinforce", "grpo", "proma")
SEEDS = range(10)
LEFT_OUT = "removed_by_layer"
"""Of the stored metrics: 272 numbers a step."""


def jobs(model: str, root: Path) -> list[Job]:
    """All runs, seed by seed, so that what is there at any time are whole pairs."""
    settings = LLMConfig.ladder_settings("full", model, has_gpu=False)
    return [
        Job(root / method / f"seed-{seed}", LLMConfig(method=method, seed=seed, **settings))
        for seed in SEEDS
        for method in METHODS
    ]


def store(root: Path) -> None:
    """Copy the finished runs of the seeds that all methods have."""
    for seed in SEEDS:
        runs = [root / method / f"seed-{seed}" for method in METHODS]
        if all((run / "summary.json").exists() for run in runs):
            for run in runs:
                _store(run, STORED / run.relative_to(root))


@functools.cache
def stored(method: str) -> dict[int, Run]:
    """The stored runs of a method by seed."""
    runs = map(read_run, (STORED / method).glob("seed-*"))
    return {run.config["seed"]: run for run in sorted(runs, key=lambda run: int(run.config["seed"]))}


def _store(run: Path, home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    config = json.loads((run / "config.json").read_text())
    write_json(home / "config.json", {**config, "model": f"models/{Path(config['model']).name}"})
    (home / "summary.json").write_bytes((run / "summary.json").read_bytes())
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    (home / "metrics.jsonl").write_text("".join(f"{json.dumps({**line, LEFT_OUT: None})}\n" for line in lines))


def main(model: str, root: Path) -> None:
    finish(jobs(model, root), 1, make_console())
    store(root)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
