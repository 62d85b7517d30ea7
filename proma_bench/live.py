"""What a command shows while it works: bars with the current score, entropy and local KL."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from proma_bench.config import RunConfig
from proma_bench.runs import Metrics, Run, read_metrics, run_in
from proma_bench.workers import Job


def describe(history: Sequence[Metrics]) -> str:
    """The last optimizer step in a few words, with the last score that was measured."""
    scores = [metrics["accuracy"] for metrics in history if metrics["accuracy"] is not None]
    score = f"{scores[-1]:.3f}" if scores else "-"
    return f"score {score}  " + "entropy {entropy:.3f}  local KL {kl_local:.5f}".format(**history[-1])


def progress_bars(console: Console) -> Progress:
    """Bars whose tasks have a ``state`` field, a few words on where they are."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,  # a log gets lines instead
    )


def train_with_progress(
    path: Path, config: RunConfig, resume: bool, console: Console, track: Callable[[Metrics], None]
) -> Run:
    """:func:`proma_bench.runs.run_in` with a bar; a console that is no terminal gets ten lines instead.

    ``track`` gets every step's metrics.
    """
    with progress_bars(console) as progress:
        task = progress.add_task(config.name, total=config.steps, state="")

        history: list[Metrics] = []
        started = time.monotonic()

        def on_step(metrics: Metrics) -> None:
            track(metrics)
            history.append(metrics)
            step = metrics["step"]
            state = f"{describe(history)}{_pace(history, time.monotonic() - started, config.steps)}"
            progress.update(task, completed=step, state=state)
            if not console.is_terminal and step % max(1, config.steps // 10) == 0:
                console.print(f"step {step} of {config.steps}: {state}")

        run = run_in(path, config, resume=resume, on_step=on_step, on_note=progress.console.print)
        progress.update(task, completed=len(run.metrics), state=describe(run.metrics))
    console.print(f"run: {path}", soft_wrap=True)
    return run


def _pace(history: Sequence[Metrics], seconds: float, steps: int) -> str:
    """Tokens answered a second, and the time left if it goes on like this; nothing of runs without text.

    history: the steps that this process has done, in so many seconds.
    """
    if "tokens" not in history[-1]:
        return ""
    tokens = sum(metrics["tokens"] for metrics in history)
    minutes = (steps - history[-1]["step"]) * seconds / len(history) / 60
    return f"  {tokens / seconds:.0f} tokens/s, {minutes:.0f} min left"


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
