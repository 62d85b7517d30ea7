"""Runs side by side: one that fails or dies is tried once more, and the others never notice."""

import dataclasses
import multiprocessing

from small_runs import tiny, without_timings

from proma_bench.experiments.jobs import Job
from proma_bench.experiments.workers import Event, Outcome, run_all
from proma_bench.runs.directory import read_metrics, read_run


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
