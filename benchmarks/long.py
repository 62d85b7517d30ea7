"""The bandit for 240 steps, each method at its rate of equal local KL of the leaderboard, on other seeds than there.

python -m benchmarks.long first RUNS    run what is missing under RUNS, and store all (an hour and a half on one core)
python -m benchmarks.long again RUNS    likewise, five methods on twenty further seeds (half an hour)

The plan is benchmarks/plans/findings.md; docs/findings.md shows the tables.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.stored_runs import HOME as LEADERBOARD
from benchmarks.stored_runs import run_and_pack, unpack
from proma_bench.experiments.jobs import Job
from proma_bench.report.judging import evaluate
from proma_bench.report.leaderboard import leaderboard
from proma_bench.tiers.bandit.config import BanditConfig

STORED = Path(__file__).parent / "results" / "long"
STEPS = 240


class Study(NamedTuple):
    """Seeds and methods; None is all methods of the leaderboard that have a matched rate."""

    seeds: range
    methods: tuple[str, ...] | None


STUDIES = {
    "first": Study(range(10, 20), None),
    "again": Study(range(30, 50), ("reinforce", "grpo", "gspo", "proma", "elsewhere")),
}


def stored(name: str) -> Path:
    """The file of a study's runs."""
    return STORED / f"bandit-{name}.jsonl.gz"


def matched_rates() -> dict[str, float]:
    """The learning rate of each method at which its mean local KL is REINFORCE's at 0.005, in 60 steps."""
    (claims,) = evaluate(unpack(LEADERBOARD / "bandit.jsonl.gz"))
    board = leaderboard(claims)
    assert board is not None
    return {name: matched.learning_rate for name, matched in board.matched.items()}


def jobs(study: Study, root: Path) -> list[Job]:
    """All runs; methods take turns."""
    rates = matched_rates()
    return [
        Job(
            root / method / f"seed-{seed}",
            BanditConfig(method=method, seed=seed, learning_rate=rates[method], steps=STEPS),
        )
        for seed in study.seeds
        for method in study.methods or rates
    ]


def main(name: str, root: Path, processes: int) -> None:
    run_and_pack(jobs(STUDIES[name], root), root, stored(name), processes)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
