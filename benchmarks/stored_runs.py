"""Finished runs in one compressed file for each tier, for tables that anyone can compute again.

python -m benchmarks.stored_runs RUNS    write benchmarks/results/leaderboard/TIER.jsonl.gz from the runs under RUNS

One line for each run: its path, its config.json, and its metrics as columns, to five digits, without those per tensor.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from proma_bench.console import make_console
from proma_bench.experiments.jobs import Job
from proma_bench.experiments.ladder import finish
from proma_bench.learning.metrics import METRICS
from proma_bench.report.plots import file_name
from proma_bench.report.reading import read_runs
from proma_bench.report.statistics import Array
from proma_bench.runs.directory import Divergence, Run, read_run

HOME = Path(__file__).parent / "results" / "leaderboard"
KEPT = (
    "step score score_sampled reward kl_local kl_local_unseen kl_global entropy removed_ratio clamped "
    "update_seconds seconds"
).split()
DIGITS = 5
LAST = {"reward": 10}
"""Steps at the end whose mean is the final value: a step's rewards are of few sequences. Of others, the last one."""


def pack(runs: list[Run], path: Path) -> None:
    """Write runs; the same runs give the same bytes."""
    lines = [json.dumps(_as_json(run), separators=(",", ":")) for run in sorted(runs, key=lambda run: str(run.path))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def unpack(path: Path) -> list[Run]:
    """Read what `pack` wrote."""
    with gzip.open(path, "rt") as file:
        return [_from_json(json.loads(line)) for line in file]


def final_differences(mine: Mapping[int, Run], other: Mapping[int, Run], metric: str) -> Array:
    """One run minus the other at the end, seed by seed; NaN where one was not measured, or diverged."""
    return np.array([final(mine[seed], metric) - final(other[seed], metric) for seed in sorted(mine.keys() & other)])


def final(run: Run, metric: str) -> float:
    """A metric at the end of a run; NaN as above."""
    values = [step.get(metric) for step in run.metrics[-LAST.get(metric, 1) :]] if run.finished else [None]
    return math.fsum(values) / len(values) if None not in values else math.nan


def run_and_pack(jobs: Sequence[Job], root: Path, path: Path, processes: int) -> None:
    """Do what is missing of the jobs, and write them all, by their paths below ``root``."""
    finish(jobs, processes, make_console())
    runs = [read_run(job.path) for job in jobs]
    pack([dataclasses.replace(run, path=run.path.relative_to(root)) for run in runs], path)


def _as_json(run: Run) -> dict[str, Any]:
    columns = {name: [_rounded(step.get(name)) for step in run.metrics] for name in KEPT}
    assert all(name in METRICS for name in columns)
    kept = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    ended = None if run.diverged is None else [run.diverged.step, run.diverged.reason]
    return {"path": str(run.path), "config": run.config, "metrics": kept, "diverged": ended}


def _from_json(line: dict[str, Any]) -> Run:
    columns = line["metrics"]
    metrics = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    diverged = None if line["diverged"] is None else Divergence(*line["diverged"])
    return Run(Path(line["path"]), line["config"], metrics, finished=diverged is None, diverged=diverged)


def _rounded(value: float | None) -> float | int | None:
    return value if value is None or isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def main(root: Path) -> None:
    by_tier: dict[str, list[Run]] = {}
    for run in read_runs(root).runs:
        if run.finished or run.diverged:
            by_tier.setdefault(run.config["title"], []).append(
                dataclasses.replace(run, path=run.path.relative_to(root))
            )
    for title, runs in by_tier.items():
        path = HOME / f"{file_name(title)}.jsonl.gz"
        pack(runs, path)
        print(f"{path}: {len(runs)} runs, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
