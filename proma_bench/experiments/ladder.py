"""The ladder: every method on every tier, seed by seed, then the comparison."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from proma_bench import files
from proma_bench.console import Styled, say
from proma_bench.errors import RunError, UsageError, require_known
from proma_bench.experiments.jobs import Job
from proma_bench.experiments.progress import RunningJobs, describe, progress_bars
from proma_bench.experiments.workers import Event, Outcome, run_all
from proma_bench.learning.config import BUDGETS
from proma_bench.learning.methods import METHODS, all_methods, method_named
from proma_bench.runs.criteria import criteria_for
from proma_bench.runs.directory import read_divergence, read_json, read_run, write_json
from proma_bench.runs.rules import has_begun
from proma_bench.tiers import TIERS

SEEDS = {"smoke": 2, "quick": 10, "full": 10}


@dataclass(frozen=True)
class Plan:
    """What a ladder runs and how it will be judged; stored as ``ladder.json`` before the first run."""

    tiers: Sequence[str]
    methods: Sequence[str]
    budget: str
    seeds: int
    criteria: dict[str, str]
    learning_rates: dict[str, list[float]]
    model: str | None
    settings: dict[str, dict[str, Any]]
    rules: dict[str, str]
    """The SHA-256 of the files of methods that are update rules in a file."""

    def jobs(self, root: Path) -> list[Job]:
        """All runs, at ``root/TIER/METHOD/lr-RATE/seed-N``. Methods take turns, so that an early look compares them."""
        return [
            self._job(root, tier, method, rate, seed)
            for tier in self.tiers
            for rate, seed, method in itertools.product(
                self.learning_rates[tier], range(self._seeds(tier)), self.methods
            )
        ]

    def jobs_of(self, root: Path, tier: str, method: str, rate: float) -> list[Job]:
        """The runs of one method at one learning rate, seed by seed."""
        return [self._job(root, tier, method, rate, seed) for seed in range(self._seeds(tier))]

    def _seeds(self, tier: str) -> int:
        return 1 if TIERS[tier](**self.settings[tier]).is_smoke_run else self.seeds

    def _job(self, root: Path, tier: str, method: str, rate: float, seed: int) -> Job:
        config = TIERS[tier](method=method, seed=seed, learning_rate=rate, **self.settings[tier])
        return Job(root / tier / method_named(method).folder / f"lr-{rate:g}" / f"seed-{seed}", config)


def make_plan(
    tiers: Sequence[str],
    budget: str,
    seeds: int | None,
    model: str | None = None,
    methods: Sequence[str] | None = None,
) -> Plan:
    """The plan of a ladder.

    Args:
        tiers: their names.
        budget: smoke, quick or full.
        seeds: seeds per method; None is the budget's own number.
        model: of the llm tier. Without one, that tier runs with its default model where there is a GPU, and as a smoke
            run elsewhere.
        methods: their names; None is those of `METHODS`.

    Raises:
        UsageError: an unknown tier, method or budget, an update rule that cannot be used, or fewer than one seed.
    """
    methods = list(dict.fromkeys(METHODS if methods is None else methods))
    for tier in tiers:
        require_known("tier", tier, TIERS)
    require_known("budget", budget, BUDGETS)
    if seeds is not None and seeds < 1:
        raise UsageError(f"seeds must be at least 1, got {seeds}")
    tiers = list(dict.fromkeys(tiers))
    criteria = {tier: str(criteria_for(TIERS[tier]())) for tier in tiers}
    rates = {tier: list(TIERS[tier].sweep[budget]) for tier in tiers}
    gpu = any(TIERS[tier].threads is None for tier in tiers) and _has_gpu()
    settings = {tier: TIERS[tier].ladder_settings(budget, model, gpu) for tier in tiers}
    seeds = SEEDS[budget] if seeds is None else seeds
    sizes = {TIERS[tier](**settings[tier]).microbatch_size for tier in tiers}
    return Plan(tiers, methods, budget, seeds, criteria, rates, model, settings, _rules(methods, sizes))


def _rules(methods: Sequence[str], sizes: Collection[int]) -> dict[str, str]:
    """The SHA-256 of the file of each method in a file, which is imported and tried with these microbatches."""
    folders = collections.Counter(method_named(method).folder for method in methods)
    if twice := [folder for folder, count in folders.items() if count > 1]:
        raise UsageError(f"two methods would have the directory {twice[0]!r}; give one of their files another name")
    own = [method for method in methods if method not in all_methods()]
    if not own:
        return {}
    from proma_bench.learning.rules import users_rule

    tried = [(method, users_rule(method, sequences=size)) for method in own for size in sorted(sizes)]
    sources = {method: rule.source or "" for method, rule in tried}
    return {method: hashlib.sha256(source.encode()).hexdigest() for method, source in sources.items()}


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def climb(plan: Plan, root: Path, processes: int, console: Console) -> None:
    """Do all runs of the plan that are not finished yet.

    Raises:
        UsageError: ``root`` holds a ladder of another plan.
        RunError: at the end, when runs are not finished. A run that diverged has a result: it counts as ended.
    """
    _record(plan, root)
    jobs = plan.jobs(root)
    for job in jobs:
        files.require_inside(root, job.path)
    finish(jobs, processes, console)


def finish(jobs: Sequence[Job], processes: int, console: Console) -> None:
    """Do those of the jobs that have not ended, with bars; those that need a whole GPU come last, one at a time.

    Raises:
        RunError: at the end, when one has failed twice, or another process is still at work in it.
    """
    todo = [job for job in jobs if not _ended(job)]
    if len(todo) < len(jobs):
        say(console, f"{len(jobs) - len(todo)} of {len(jobs)} runs are finished already")
    alone = [job for job in todo if job.config.threads is None and _has_gpu()]
    others = [job for job in todo if job not in alone]
    unfinished: list[Outcome] = []
    with progress_bars(console) as progress:
        overall = progress.add_task("ladder", total=len(jobs), completed=len(jobs) - len(todo), state="")
        running = RunningJobs(progress)
        for group, side_by_side in ((others, processes), (alone, 1)):
            with contextlib.closing(run_all(group, side_by_side, running.show)) as events:
                for event in events:
                    say(progress.console, *_line(event))
                    progress.advance(overall, event.final)
                    if event.final and event.outcome != Outcome() and not read_divergence(event.job.path):
                        unfinished.append(event.outcome)
    if diverged := sum(read_divergence(job.path) is not None for job in jobs):
        say(console, f"{diverged} of {len(jobs)} runs diverged")
    if unfinished:
        in_use = sum(outcome.is_in_use for outcome in unfinished)
        failed = len(unfinished) - in_use
        counts = [(failed, "failed"), (in_use, "are in use by another process")]
        words = ", ".join(f"{count} of {len(jobs)} runs {what}" for count, what in counts if count)
        raise RunError(f"{words}; the same command tries them again")


def _line(event: Event) -> list[Styled]:
    name = event.job.config.name
    if event.outcome.is_in_use:
        return [f"{name} is in use by another process" + ("" if event.final else "; it is left for the end")]
    if event.outcome.problem is not None:
        if divergence := read_divergence(event.job.path):
            return [(name, "yellow"), f" {divergence}"]
        fate = "given up" if event.final else "starting it once more"
        return [(f"{name} failed", "red"), f"; {fate}: {event.outcome.problem}"]
    return [f"{name}: {describe(read_run(event.job.path).metrics)}"]


def _record(plan: Plan, root: Path) -> None:
    path, wanted = root / "ladder.json", _as_json(plan)
    if path.exists():
        stored = read_json(path)
        different = {
            key: f"{key} {stored.get(key)!r}, not {wanted[key]!r}" for key in wanted if stored.get(key) != wanted[key]
        }
        if different.keys() == {"rules"} and not any(
            has_begun(job.path) for job in plan.jobs(root) if job.config.method in plan.rules
        ):
            write_json(path, wanted)  # a rule that failed at once was repaired
        elif different:
            raise UsageError(f"{root} holds a different ladder ({'; '.join(different.values())}); choose another --out")
    else:
        files.make_folder(root)
        write_json(path, wanted)


def _as_json(plan: Plan) -> dict[str, Any]:
    stored = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(plan).items()}
    return stored if plan.rules else {key: value for key, value in stored.items() if key != "rules"}


def _ended(job: Job) -> bool:
    if not (job.path / "config.json").exists():
        return False
    run = read_run(job.path)
    return run.diverged is not None or (run.finished and run.config["steps"] == job.config.steps)
