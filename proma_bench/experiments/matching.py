"""After a ladder: each method once more, at the learning rate where it changes the policy as much as REINFORCE does."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from proma_bench.console import say
from proma_bench.errors import UsageError
from proma_bench.experiments.ladder import Plan, finish
from proma_bench.runs.directory import read_json, read_run, write_json
from proma_bench.runs.matching import BASELINE, MATCHED, mean_local_kl, next_rate
from proma_bench.tiers import TIERS

TRIES = 4


def require_baseline(plan: Plan) -> None:
    """Require that there is something to match.

    Raises:
        UsageError: the ladder has no runs of the baseline.
    """
    if BASELINE not in plan.methods:
        raise UsageError(f"--match-kl takes the local KL of {BASELINE} as its target; add it to --methods")


def match(plan: Plan, root: Path, processes: int, console: Console) -> None:
    """Run each method at the rate where its mean local KL over all seeds is that of the baseline at the default rate.

    The runs are beside those of the ladder, in ``root/TIER/METHOD/lr-RATE/seed-N``; finished ones are not repeated. The
    rates are found by false position, all methods side by side, in at most four tries.

    Args:
        plan: that of the ladder, all of whose runs have ended.
        root: the directory of the ladder.
        processes: runs side by side.
        console: for progress.

    Raises:
        RunError: a run has failed twice.
    """
    _record(root / "ladder.json")
    for tier in plan.tiers:
        rates = {method: set(plan.learning_rates[tier]) for method in plan.methods}
        target = _known(plan, root, tier, BASELINE, {TIERS[tier].learning_rate}).get(TIERS[tier].learning_rate)
        if not target:
            say(console, f"{tier}: {BASELINE} has no local KL at the default learning rate; nothing is matched")
            continue
        for _ in range(TRIES):
            tries = {
                method: rate
                for method, tried in rates.items()
                if (rate := next_rate(_known(plan, root, tier, method, tried), target)) is not None
                and rate not in tried  # where a seed diverged, the rate is known of no KL, and would be tried again
            }
            if not tries:
                break
            jobs = [job for method, rate in tries.items() for job in plan.jobs_of(root, tier, method, rate)]
            finish(jobs, processes, console)
            for method, rate in tries.items():
                rates[method].add(rate)


def _record(path: Path) -> None:
    """Note it beside the plan, for the report's command; a ladder that goes on with the plan leaves it there."""
    plan = read_json(path)
    if not plan.get(MATCHED):
        write_json(path, {**plan, MATCHED: True})


def _known(plan: Plan, root: Path, tier: str, method: str, rates: set[float]) -> dict[float, float]:
    """The mean local KL at the rates at which all seeds finished."""
    known = {}
    for rate in rates:
        runs = [read_run(job.path) for job in plan.jobs_of(root, tier, method, rate)]
        if all(run.finished for run in runs):
            known[rate] = mean_local_kl(runs)
    return known
