"""Runs side by side: one that fails or dies is tried once more, and the others never notice."""

import multiprocessing

from small_runs import tiny, without_timings

from proma_bench.runs import read_metrics, read_run
from proma_bench.train import train
from proma_bench.workers import Job, run_all


def test_a_worker_that_dies_is_replaced_and_its_run_finished(tmp_path):
    jobs = [Job(tmp_path / str(seed), tiny(seed=seed, steps=300, method="reinforce")) for seed in range(2)]
    killed = []

    def kill_the_first(running):
        if not killed and all(read_metrics(job.path / "metrics.jsonl") for job in running):
            killed.append(multiprocessing.active_children()[0])
            killed[0].kill()

    events = list(run_all(jobs, 2, kill_the_first))
    (failure,) = [event for event in events if event.problem]
    assert failure.problem == "the process ended with code -9"
    assert not failure.final
    assert {event.job.path for event in events if event.final} == {job.path for job in jobs}
    again = next(event.job for event in events if event.final and event.job.path == failure.job.path)
    assert again.attempt == 2
    assert all(read_run(job.path).finished for job in jobs)
    expected = without_timings(train(failure.job.config))
    assert without_timings(read_run(failure.job.path).metrics) == expected
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
    assert "is a file" in events[1].problem
    assert events[2].problem is None
    assert read_run(tmp_path / "1").finished
