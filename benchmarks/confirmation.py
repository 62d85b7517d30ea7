"""PROMA against six others on the bandit, on thirty new seeds, at rates of equal local KL fixed beforehand.

python -m benchmarks.confirmation RUNS    run what is missing under RUNS, and store all (five minutes on two cores)

The plan is benchmarks/plans/confirmation.md; docs/leaderboard.md shows the table.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.stored_runs import final_differences, run_and_pack, unpack
from proma_bench.experiments.jobs import Job
from proma_bench.experiments.workers import available_cores
from proma_bench.report.against import Compared, adjusted
from proma_bench.report.markdown import markdown_table
from proma_bench.report.matrix import level, spread
from proma_bench.report.plots import style_of
from proma_bench.runs.criteria import SCORES, Criteria
from proma_bench.runs.directory import Run
from proma_bench.runs.matching import mean_local_kl
from proma_bench.tiers.bandit.config import BanditConfig

STORED = Path(__file__).parent / "results" / "confirmation" / "bandit.jsonl.gz"
RATES = {
    "proma": 0.005496, "reinforce": 0.005, "grpo": 0.007582, "shrink": 0.006741, "elsewhere": 0.005557,
    "gspo": 0.009308, "ppo-kl": 0.007851,
}  # fmt: skip
"""The matched rates of the leaderboard."""
SEEDS = range(10, 40)


def jobs(root: Path) -> list[Job]:
    """All runs; methods take turns."""
    return [
        Job(root / method / f"seed-{seed}", BanditConfig(method=method, seed=seed, learning_rate=rate))
        for seed in SEEDS
        for method, rate in RATES.items()
    ]


def compared() -> dict[str, dict[str, Compared]]:
    """PROMA minus each other method, by score and method, from the stored runs."""
    runs = _by_method()
    others = [name for name in RATES if name != "proma"]
    return {
        metric: adjusted({name: final_differences(runs["proma"], runs[name], metric) for name in others}, Criteria())
        for metric in SCORES
    }


def table() -> str:
    """Each other method: its local KL, and PROMA minus it."""
    found = compared()
    kl = {name: f"{mean_local_kl([*runs.values()]):.4f}" for name, runs in _by_method().items()}
    rows = [
        (style_of(name).title, kl[name], str(one.found.n), *(_cell(found[metric][name]) for metric in SCORES))
        for name, one in found["score"].items()
    ]
    heading = ("PROMA minus ...", f"its mean local KL ({kl['proma']} with PROMA)", "n", "final score")
    return markdown_table((*heading, "final sampled score"), rows)


def _cell(one: Compared) -> str:
    return f"{spread(one.found.estimate, one.found.low, one.found.high)}<br>Holm {level(one.p_holm)}"


def _by_method() -> dict[str, dict[int, Run]]:
    runs = unpack(STORED)
    return {name: {run.config["seed"]: run for run in runs if run.config["method"] == name} for name in RATES}


def main(root: Path) -> None:
    run_and_pack(jobs(root), root, STORED, available_cores())
    print(table())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
