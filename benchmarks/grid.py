"""Does PROMA's gain at equal local KL grow with the number of microbatches in a step?

python -m benchmarks.grid bandit RUNS              run what is missing under RUNS, and store all (an hour on one core)
python -m benchmarks.grid bandit-one-batch RUNS    likewise, one batch cut into 4 to 64 microbatches (half an hour)
python -m benchmarks.grid transformer RUNS         likewise (two hours)
python -m benchmarks.grid transformer-starts RUNS  likewise, three warm starts, up to 64 microbatches (three hours)
python -m benchmarks.grid acrobot RUNS             likewise, where runs fail (an hour and a half)

The plan is benchmarks/plans/findings.md; docs/findings.md shows the tables.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.stored_runs import run_and_pack
from proma_bench.console import make_console
from proma_bench.experiments.jobs import Job
from proma_bench.experiments.ladder import finish
from proma_bench.learning.config import RunConfig
from proma_bench.runs.directory import read_run
from proma_bench.runs.matching import BASELINE, matched_rate, mean_local_kl, next_rate
from proma_bench.tiers.bandit.config import BanditConfig
from proma_bench.tiers.gym.config import GymConfig
from proma_bench.tiers.transformer.config import TransformerConfig

STORED = Path(__file__).parent / "results" / "grid"
TRIES = 4
ARMS: dict[str, dict[str, Any]] = {
    "reinforce": {"method": "reinforce"},
    "grpo": {"method": "grpo"},
    "proma": {"method": "proma"},
    "proma, clamp 1": {"method": "proma", "max_removed": 1.0},
    "proma, no clamp": {"method": "proma", "max_removed": None},
    "isopo": {"method": "isopo"},
    "shrink": {"method": "shrink"},
    "elsewhere": {"method": "elsewhere"},
}
"""What is compared: the methods of the tier, and PROMA with other clamps."""


@dataclass(frozen=True)
class Grid:
    """Each arm with each number of microbatches: rates are searched on some seeds and judged on others.

    Attributes:
        config: of all runs.
        by_count: settings by the number of microbatches in an optimizer step; a batch is two steps.
        arms: names in `ARMS`.
        rates: learning rates that the search begins with; the target is the baseline's local KL at ``default``.
        searched: seeds of the search.
        judged: seeds of the comparison.
        warm_starts: of the transformer, which the seeds take in turn.
    """

    config: RunConfig
    by_count: Mapping[int, Mapping[str, Any]]
    arms: tuple[str, ...]
    rates: tuple[float, ...]
    default: float
    searched: range
    judged: range
    warm_starts: int = 1

    def job(self, root: Path, microbatches: int, arm: str, rate: float, seed: int) -> Job:
        changed = {**ARMS[arm], **self.by_count[microbatches], "learning_rate": rate, "seed": seed}
        if self.warm_starts > 1:
            changed["warm_start_seed"] = seed % self.warm_starts
        folder = arm.replace(", ", "-").replace(" ", "-")
        path = root / f"microbatches-{microbatches}" / folder / f"lr-{rate:g}" / f"seed-{seed}"
        return Job(path, dataclasses.replace(self.config, **changed))


BANDIT = Grid(
    BanditConfig(steps=60),
    {4: {"initial_states": 8}, 16: {"initial_states": 32}, 64: {"initial_states": 128}},
    tuple(ARMS),
    rates=(0.0025, 0.005, 0.01),
    default=0.005,
    searched=range(5),
    judged=range(10, 30),
)
TRANSFORMER = Grid(
    TransformerConfig(steps=60, steps_per_batch=2, validate_every=20),
    {16: {"prompts": 32}},
    ("reinforce", "grpo", "proma", "elsewhere"),
    rates=(5e-5, 1e-4, 2e-4),
    default=1e-4,
    searched=range(3),
    judged=range(10, 15),
)
GRIDS = {
    "bandit": BANDIT,
    "bandit-one-batch": dataclasses.replace(
        BANDIT,
        config=BanditConfig(steps=60, initial_states=32),
        by_count={4: {"microbatch_size": 32}, 16: {"microbatch_size": 8}, 64: {"microbatch_size": 2}},
        arms=("reinforce", "grpo", "proma", "proma, clamp 1", "elsewhere"),
    ),
    "transformer": TRANSFORMER,
    "transformer-starts": dataclasses.replace(
        TRANSFORMER,
        by_count={16: {"prompts": 32}, 64: {"prompts": 128}},
        arms=("reinforce", "grpo", "proma"),
        rates=(1e-4, 2e-4),
        judged=range(10, 20),
        warm_starts=3,
    ),
    "acrobot": Grid(
        GymConfig(env="Acrobot-v1", steps=80, validate_every=40),
        {16: {"initial_states": 8, "microbatch_size": 2}},
        ("reinforce", "grpo", "proma", "elsewhere"),
        rates=(0.002, 0.004, 0.008),
        default=0.004,
        searched=range(3),
        judged=range(10, 25),
    ),
}

Known = dict[float, float]
"""Mean local KL of the search's seeds, by learning rate."""


def search(grid: Grid, root: Path, processes: int, console: Console) -> dict[int, dict[str, Known]]:
    """Bring each arm's mean local KL to the baseline's, by false position, all side by side."""
    known: dict[int, dict[str, Known]] = {count: {arm: {} for arm in grid.arms} for count in grid.by_count}
    tries = {
        (count, arm): [grid.default] if arm == BASELINE else list(grid.rates)
        for count in grid.by_count
        for arm in grid.arms
    }
    for _ in range(1 + TRIES):
        jobs = {
            (count, arm, rate): [grid.job(root, count, arm, rate, seed) for seed in grid.searched]
            for (count, arm), rates in tries.items()
            for rate in rates
        }
        finish([job for of_rate in jobs.values() for job in of_rate], processes, console)
        for (count, arm, rate), of_rate in jobs.items():
            known[count][arm][rate] = mean_local_kl([read_run(job.path) for job in of_rate])
        tries = {
            (count, arm): [rate]
            for count in grid.by_count
            for arm in grid.arms
            if (rate := _to_try(known[count][arm], target(grid, known[count]))) is not None
        }
        if not tries:
            break
    return known


def _to_try(known: Known, aimed: float) -> float | None:
    """The next rate of the search: between two that enclose the target, or twice the highest if all spend less.

    Where the highest rate does not spend most, its runs failed, and twice that rate would not help.
    """
    highest, spent = max(known), [kl for kl in known.values() if not math.isnan(kl)]
    if matched_rate(known, aimed) is None and known[highest] < aimed and known[highest] == max(spent):
        return 2 * highest
    return next_rate(known, aimed)


def target(grid: Grid, known: Mapping[str, Known]) -> float:
    """The baseline's mean local KL at the default rate, in nats."""
    return known[BASELINE][grid.default]


def judged_rate(grid: Grid, known: Mapping[str, Known], arm: str) -> float | None:
    """The rate at which an arm is judged; None if the search has not found one."""
    return grid.default if arm == BASELINE else matched_rate(known[arm], target(grid, known))


def main(name: str, root: Path, processes: int) -> None:
    grid, console = GRIDS[name], make_console()
    known = search(grid, root, processes, console)
    rates = {
        (count, arm): rate
        for count, of_count in known.items()
        for arm in grid.arms
        if (rate := judged_rate(grid, of_count, arm)) is not None
    }
    planned = [grid.job(root, *cell, rate, seed) for seed in grid.judged for cell, rate in rates.items()]
    run_and_pack(planned, root, STORED / f"{name}.jsonl.gz", processes)
    (STORED / f"{name}-search.json").write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
