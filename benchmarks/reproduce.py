"""Any one run behind the tables, again: does it give the numbers that are stored?

python -m benchmarks.reproduce benchmarks/results/grid/bandit.jsonl.gz            list its runs
python -m benchmarks.reproduce benchmarks/results/grid/bandit.jsonl.gz RUN        run one of them anew, and compare

On another processor or with other versions, sums are rounded differently, and a run drifts away from the stored one
after some steps; a mean over ten or more seeds should be within its interval.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.stored_runs import unpack
from proma_bench.experiments.run import run_in
from proma_bench.learning.config import RunConfig
from proma_bench.report.settings import run_command
from proma_bench.runs.directory import Metrics, Run
from proma_bench.tiers import TIERS

COMPARED = ("score", "score_sampled", "entropy", "kl_local", "kl_global")


def config_of(run: Run) -> RunConfig:
    """The settings of a stored run; settings that are newer than it have their defaults."""
    known = {field.name for field in dataclasses.fields(TIERS[run.config["tier"]])}
    return TIERS[run.config["tier"]](**{name: value for name, value in run.config.items() if name in known})


def compare(stored: Metrics, new: Metrics) -> list[str]:
    """One line for each metric of the last step."""
    shared = [name for name in COMPARED if stored.get(name) is not None and new.get(name) is not None]
    return [f"{name:>14}  stored {stored[name]:.5g}  now {new[name]:.5g}" for name in shared]


def main(arguments: list[str]) -> int:
    runs = {str(run.path): run for run in unpack(Path(arguments[0]))}
    if len(arguments) == 1:
        print("\n".join(runs))
        return 0
    if arguments[1] not in runs:
        print(f"{arguments[0]} has no run {arguments[1]}; without a name, its runs are listed", file=sys.stderr)
        return 2
    stored = runs[arguments[1]]
    config = config_of(stored)
    print(run_command(_as_stored(config)))
    with tempfile.TemporaryDirectory() as directory:
        new = run_in(Path(directory) / "run", config)
    print("\n".join(compare(stored.metrics[-1], new.metrics[-1])))
    return 0


def _as_stored(config: RunConfig) -> dict[str, Any]:
    return {**dataclasses.asdict(config), "tier": config.tier}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
