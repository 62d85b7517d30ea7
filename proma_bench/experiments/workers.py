"""Runs side by side, each worker a process of its own with one thread.

A worker that dies takes only its run with it: the run is started once more in a new process, from its last
checkpoint, and the others never notice. A run that diverged is not: it would diverge again.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from proma_bench.experiments.jobs import Job
from proma_bench.runs.directory import DIVERGED

ATTEMPTS = 2


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Event:
    """The end of an attempt: done, or not because of ``problem``. ``final`` unless the run is tried once more."""

    job: Job
    problem: str | None
    final: bool


def run_all(jobs: Sequence[Job], processes: int, on_wait: Callable[[list[Job]], None]) -> Iterator[Event]:
    """Do all jobs, ``processes`` at a time; yield the end of each attempt.

    ``on_wait`` gets the running jobs a few times per second. Closing the iterator stops the workers.
    """
    pending = collections.deque(jobs)
    workers = [_Worker() for _ in range(min(processes, len(jobs)))]
    try:
        while pending or any(worker.job for worker in workers):
            for worker in workers:
                if worker.job is None and pending:
                    worker.start(pending.popleft())
            busy = [worker for worker in workers if worker.job]
            ready = wait([worker.connection for worker in busy], timeout=0.2)
            for worker in [worker for worker in busy if worker.connection in ready]:
                job, problem = worker.finish()
                again = problem is not None and job.attempt < ATTEMPTS and not (job.path / DIVERGED).exists()
                if again:
                    pending.appendleft(Job(job.path, job.config, job.attempt + 1))
                yield Event(job, problem, final=not again)
            on_wait([worker.job for worker in workers if worker.job])
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that does one job after another."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self._spawn()

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is the parent's to handle
        self._process.start()
        signal.signal(signal.SIGINT, handler)
        theirs.close()  # so that the worker's death shows as the end of the pipe

    def start(self, job: Job) -> None:
        self.job = job
        with contextlib.suppress(BrokenPipeError):  # it died while idle; `finish` finds out
            self.connection.send(job)

    def finish(self) -> tuple[Job, str | None]:
        """The job that ended, and what was wrong with it. A dead process is replaced."""
        job, self.job = self.job, None
        assert job is not None
        try:
            return job, self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.stop()
            problem = f"the process ended with code {self._process.exitcode}"
            self._spawn()
            return job, problem

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection) -> None:
    """The worker's side: take jobs, answer each with None or the problem."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from proma_bench.experiments.run import run_in
    from proma_bench.plugins import load_plugins

    torch.set_num_threads(1)
    load_plugins()
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        while True:
            job = connection.recv()
            problem = None
            try:
                run_in(job.path, job.config, resume=True)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            connection.send(problem)
