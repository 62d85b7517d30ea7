"""Runs side by side, each worker a process of its own with one thread.

A worker that dies takes only its run with it: the run is started once more in a new process, from its last
checkpoint, and the others never notice. A run that diverged is not: it would diverge again.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from proma_bench.experiments.jobs import Job
from proma_bench.experiments.processes import live_with_parent, undisturbed_start
from proma_bench.runs.directory import DIVERGED

ATTEMPTS = 2


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: done if both are false."""

    problem: str | None = None
    is_in_use: bool = False
    """Another process is at work in the run's directory."""


@dataclass(frozen=True)
class Event:
    """The end of an attempt. ``final`` unless the run is tried once more."""

    job: Job
    outcome: Outcome
    final: bool


def run_all(jobs: Sequence[Job], processes: int, on_wait: Callable[[list[Job]], None]) -> Generator[Event, None, None]:
    """Do all jobs, ``processes`` at a time; yield the end of each attempt.

    A run in which another process is at work is left for the end, and given up only if it is still in use then.
    ``on_wait`` gets the running jobs a few times per second. Closing the iterator stops the workers.
    """
    workers = [_Worker() for _ in range(min(processes, len(jobs)))]
    try:
        in_use = yield from _round(jobs, workers, on_wait, is_last=False)
        yield from _round(in_use, workers, on_wait, is_last=True)
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.close()


def _round(
    jobs: Sequence[Job], workers: Sequence[_Worker], on_wait: Callable[[list[Job]], None], is_last: bool
) -> Generator[Event, None, list[Job]]:
    """Do all jobs once; return those that are in use."""
    pending, in_use = collections.deque(jobs), []
    while pending or any(worker.job for worker in workers):
        for worker in workers:
            if worker.job is None and pending:
                worker.start(pending.popleft())
        busy = [worker for worker in workers if worker.job]
        ready = wait([worker.connection for worker in busy], timeout=0.2)
        for worker in [worker for worker in busy if worker.connection in ready]:
            job, outcome = worker.finish()
            again = outcome.problem is not None and job.attempt < ATTEMPTS and not (job.path / DIVERGED).exists()
            if again:
                pending.appendleft(Job(job.path, job.config, job.attempt + 1))
            if outcome.is_in_use:
                in_use.append(job)
            yield Event(job, outcome, final=not again and (is_last or not outcome.is_in_use))
        on_wait([worker.job for worker in workers if worker.job])
    return in_use


class _Worker:
    """A process that does one job after another; it begins with the first one, and anew when it has died."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self._process: BaseProcess | None = None

    def start(self, job: Job) -> None:
        if self._process is None:
            self._spawn()
        self.job = job
        with contextlib.suppress(ConnectionError):  # it died while idle; `finish` finds out
            self.connection.send(job)

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        lasting = threading.current_thread() is threading.main_thread()
        with undisturbed_start():
            process = context.Process(target=_serve, args=(theirs, lasting), daemon=True)
            process.start()
            self._process = process
        theirs.close()  # so that the worker's death shows as the end of the pipe

    def finish(self) -> tuple[Job, Outcome]:
        """The job that ended, and how."""
        job, self.job = self.job, None
        assert job is not None
        try:
            return job, self.connection.recv()
        except (EOFError, ConnectionError):
            code = self.close()
            return job, Outcome(f"the process ended with code {code}")

    def kill(self) -> None:
        """Runs survive this; nothing else could be relied on to be quick."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> int | None:
        """Wait for the end of a process that has been killed or is dying, and return its exit code."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        process.join(timeout=5)
        process.kill()
        process.join()
        self.connection.close()
        return process.exitcode


def _serve(connection: Connection, started_by_main_thread: bool) -> None:
    """The worker's side: take jobs, answer each with its outcome."""
    live_with_parent(started_by_main_thread=started_by_main_thread)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from proma_bench.experiments.run import run_in
    from proma_bench.plugins import load_plugins
    from proma_bench.runs.directory import InUseError

    torch.set_num_threads(1)
    load_plugins()
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while True:
            job = connection.recv()
            outcome = Outcome()
            try:
                run_in(job.path, job.config, resume=True)
            except InUseError:
                outcome = Outcome(is_in_use=True)
            except Exception as error:
                outcome = Outcome(f"{type(error).__name__}: {error}")
            connection.send(outcome)
