"""What a command shows while it works: bars with the current score, entropy and local KL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from proma_bench.experiments.jobs import Job
from proma_bench.runs.directory import Metrics, read_metrics


def describe(history: Sequence[Metrics]) -> str:
    """The last optimizer step in a few words, with the last score that was measured."""
    score = next((metrics["score"] for metrics in reversed(history) if metrics.get("score") is not None), None)
    entropy, kl = (history[-1].get(name) for name in ("entropy", "kl_local"))
    return f"score {_shown(score, 3)}  entropy {_shown(entropy, 3)}  local KL {_shown(kl, 5)}"


def _shown(value: object, digits: int) -> str:
    """A number; a dash for what was not measured, or was put there by somebody else."""
    return f"{value:.{digits}f}" if isinstance(value, float | int) and abs(value) < 1e15 else "-"


def progress_bars(console: Console) -> Progress:
    """Bars whose tasks have a ``state`` field, a few words about their progress."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,  # a log gets lines instead
    )


class RunningJobs:
    """A bar for each job in progress, read from the metrics that the runs write anyway."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[Path, TaskID] = {}

    def show(self, running: list[Job]) -> None:
        """Bring the bars to the present state of the running jobs."""
        for path in self._tasks.keys() - {job.path for job in running}:
            self._progress.remove_task(self._tasks.pop(path))
        for job in running:
            if job.path not in self._tasks:
                self._tasks[job.path] = self._progress.add_task(job.config.name, total=job.config.steps, state="")
            history = read_metrics(job.path / "metrics.jsonl")
            if history:
                self._progress.update(self._tasks[job.path], completed=len(history), state=describe(history))
