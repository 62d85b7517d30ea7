"""Runs side by side: one that fails or dies is tried once more, and the others never notice."""

import contextlib
import dataclasses
import io
import multiprocessing

import pytest
from rich.console import Console
from small_runs import tiny, without_timings

from proma_bench.errors import RunError
from proma_bench.experiments.jobs import Job
from proma_bench.experiments.ladder import finish
from proma_bench.experiments.workers import Event, Outcome, run_all
from proma_bench.runs.directory import claim, read_metrics, read_run


def test_a_worker_that_dies_is_replaced_and_its_run_finished(tmp_path):
    config = tiny(steps=300, method="reinforce")
    killed, undisturbed = jobs = [Job(tmp_path / name, config) for name in ("killed", "undisturbed")]

    def kill_once(running):
        if 0 < len(read_metrics(killed.path / "metrics.jsonl")) < 200 and killed in running:
            (worker,) = multiprocessing.active_children()
            worker.kill()

    first, second, third = run_all(jobs, 1, kill_once)
    assert first == Event(killed, Outcome("the process ended with code -9"), final=False)
    assert second == Event(dataclasses.replace(killed, attempt=2), Outcome(), final=True)
    assert third == Event(undisturbed, Outcome(), final=True)
    histories = [read_run(job.path).metrics for job in jobs]
    assert without_timings(histories[0]) == without_timings(histories[1])
    assert len(histories[0]) == 300
    assert not multiprocessing.active_children()


def test_a_run_that_cannot_succeed_is_given_up_after_two_attempts(tmp_path):
    (tmp_path / "0").write_text("a file where the directory should be")
    jobs = [Job(tmp_path / str(seed), tiny(seed=seed)) for seed in range(2)]
    events = list(run_all(jobs, 1, lambda running: None))
    assert [(event.job.path.name, event.job.attempt, event.final) for event in events] == [
        ("0", 1, False),
        ("0", 2, True),
        ("1", 1, True),
    ]
    assert "is a file" in events[1].outcome.problem
    assert events[2].outcome == Outcome()
    assert read_run(tmp_path / "1").finished


def test_a_run_that_is_in_use_waits_for_the_end_and_costs_no_attempt(tmp_path):
    """One is free again when the others are done, and one is not."""
    jobs = [Job(tmp_path / name, tiny(seed=seed)) for seed, name in enumerate(("kept", "lent", "free"))]
    kept, lent, free = jobs
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        ours.enter_context(claim(kept.path, kept.config, resume=False))
        theirs.enter_context(claim(lent.path, lent.config, resume=False))
        events = []
        for event in run_all(jobs, 1, lambda running: None):
            events.append(event)
            if event.job == free:
                theirs.close()
    in_use = Outcome(is_in_use=True)
    assert events == [
        Event(kept, in_use, final=False),
        Event(lent, in_use, final=False),
        Event(free, Outcome(), final=True),
        Event(kept, in_use, final=True),
        Event(lent, Outcome(), final=True),
    ]


def test_a_ladder_says_what_is_in_use_and_is_incomplete(tmp_path):
    held, free = (Job(tmp_path / name, tiny(seed=seed, steps=2)) for seed, name in enumerate(("held", "free")))
    output = io.StringIO()
    message = "^1 of 2 runs are in use by another process; the same command tries them again"
    with claim(held.path, held.config, resume=False), pytest.raises(RunError, match=message):
        finish([held, free], 1, Console(file=output, width=120))
    first, second, third = output.getvalue().splitlines()
    assert first == f"{held.config.name} is in use by another process; it is left for the end"
    assert second.startswith(f"{free.config.name}: score")
    assert third == f"{held.config.name} is in use by another process"
    finish([held, free], 1, Console(file=output))
    assert read_run(held.path).finished
