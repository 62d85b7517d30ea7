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
    scores = [metrics["score"] for metrics in history if metrics["score"] is not None]
    score = f"{scores[-1]:.3f}" if scores else "-"
    return f"score {score}  " + "entropy {entropy:.3f}  local KL {kl_local:.5f}".format(**history[-1])


def progress_bars(console: Console) -> Progress:
    """Bars whose tasks have a ``state`` field, a few words about their progress."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
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
