"""One run from beginning to end, in a directory of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from proma_bench.console import say
from proma_bench.errors import DivergenceError, RunError
from proma_bench.experiments.progress import describe, progress_bars
from proma_bench.experiments.training import Training
from proma_bench.learning.config import RunConfig, to_json
from proma_bench.runs import checkpoints, versions
from proma_bench.runs.directory import (
    DIVERGED,
    Metrics,
    MetricsFile,
    Run,
    claim,
    disk_errors,
    read_metrics,
    read_run,
    summary,
    write_json,
)
from proma_bench.runs.rules import keep_rule, require_same_rule


def run_in(
    path: Path,
    config: RunConfig,
    *,
    resume: bool = False,
    strict: bool = False,
    on_step: Callable[[Metrics], None] = lambda metrics: None,
    on_note: Callable[[str], None] = lambda line: None,
) -> Run:
    """Train in a directory, from its last checkpoint on where there is one, and return what it then holds.

    ``strict`` refuses to resume with other versions than the run was started with. ``on_step`` gets every step's
    metrics, ``on_note`` a line for everything unusual that a resumed run found.

    Raises:
        UsageError: the directory cannot be claimed (see `claim`), or the tier refuses the settings.
        DivergenceError: numbers of the run are no longer finite. Its directory says so from then on.
        RunError: the run cannot go on, or it diverged before.
    """
    training = Training(config)  # first: a config that cannot be trained with leaves no directory behind
    source = None if training.rule is None else training.rule.source
    require_same_rule(path, source)
    with claim(path, config, resume, strict):
        before = read_run(path)
        if before.finished:
            return before
        if before.diverged is not None:
            raise RunError(
                f"{path} {before.diverged}; it would diverge again, so it is not continued (without its diverged.json, "
                "--resume tries again)"
            )
        if other := versions.changes(before.config):
            on_note(f"resumed with {other}: the results may differ from those of the versions at the start")
        if new := sorted(to_json(config).keys() - before.config.keys()):
            names, its = ", ".join(new), "its default is" if len(new) == 1 else "their defaults are"
            on_note(f"the run was started before there was {names}; {its} what was done then")
        with disk_errors(path), _recorded_divergence(path):
            keep_rule(path, source)
            recorded = read_metrics(path / "metrics.jsonl")
            for problem in checkpoints.restore(path / "checkpoint", training, last_step=len(recorded)):
                on_note(problem)
            with MetricsFile(path / "metrics.jsonl", training.step) as file:
                saved, remarked = training.step, False
                while training.step < config.steps:
                    for metrics in training.batch():
                        file.append(metrics)
                        on_step(metrics)
                        if not remarked and (remark := config.remark(metrics)):
                            on_note(remark)
                            remarked = True  # once; the metrics have the rest
                    if training.step - saved >= config.checkpoint_every or training.step == config.steps:
                        checkpoints.save(path / "checkpoint", training)
                        saved = training.step
            initial = training.tier.evaluate(training.initial)
            write_json(path / "summary.json", summary(read_metrics(path / "metrics.jsonl"), initial))
        return read_run(path)


@contextlib.contextmanager
def _recorded_divergence(path: Path) -> Iterator[None]:
    """Record a divergence in the run's directory, so that nobody repeats the run, and every report counts it."""
    try:
        yield
    except DivergenceError as error:
        if error.step is not None:
            write_json(path / DIVERGED, {"step": error.step, "reason": error.reason})
        raise


def train_with_progress(
    path: Path,
    config: RunConfig,
    resume: bool,
    console: Console,
    track: Callable[[Metrics], None],
    strict: bool = False,
) -> Run:
    """`run_in` with a bar; a console that is no terminal gets ten lines instead.

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
                say(console, f"step {step} of {config.steps}: {state}")

        def on_note(line: str) -> None:
            say(progress.console, line)

        run = run_in(path, config, resume=resume, strict=strict, on_step=on_step, on_note=on_note)
        progress.update(task, completed=len(run.metrics), state=describe(run.metrics))
    say(console, f"run: {path}")
    return run


def _pace(history: Sequence[Metrics], seconds: float, steps: int) -> str:
    """Answered tokens per second, and the time left at this pace; nothing for runs without text.

    Args:
        history: the steps that this process has done.
        seconds: how long it took for them.
        steps: of the whole run.
    """
    if "tokens" not in history[-1]:
        return ""
    tokens = sum(metrics["tokens"] for metrics in history)
    minutes = (steps - history[-1]["step"]) * seconds / len(history) / 60
    return f"  {tokens / seconds:.0f} tokens/s, {minutes:.0f} min left"
