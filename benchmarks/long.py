"""All methods on the bandit for 240 steps, at the rates of equal local KL of the leaderboard, on ten other seeds.

python -m benchmarks.long RUNS    run what is missing under RUNS, and store all (an hour and a half on one core)

The plan is benchmarks/plans/findings.md; docs/findings.md shows the table.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.stored_runs import HOME as LEADERBOARD
from benchmarks.stored_runs import run_and_pack, unpack
from proma_bench.experiments.jobs import Job
from proma_bench.report.judging import evaluate
from proma_bench.report.leaderboard import leaderboard
from proma_bench.tiers.bandit.config import BanditConfig

STORED = Path(__file__).parent / "results" / "long" / "bandit.jsonl.gz"
SEEDS = range(10, 20)
STEPS = 240


def matched_rates() -> dict[str, float]:
    """The learning rate of each method at which its mean local KL is REINFORCE's at 0.005, in 60 steps."""
    (claims,) = evaluate(unpack(LEADERBOARD / "bandit.jsonl.gz"))
    board = leaderboard(claims)
    assert board is not None
    return {name: matched.learning_rate for name, matched in board.matched.items()}


def jobs(root: Path) -> list[Job]:
    """All runs; methods take turns."""
    return [
        Job(root / method / f"seed-{seed}", BanditConfig(method=method, seed=seed, learning_rate=rate, steps=STEPS))
        for seed in SEEDS
        for method, rate in matched_rates().items()
    ]


def main(root: Path, processes: int) -> None:
    run_and_pack(jobs(root), root, STORED, processes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
