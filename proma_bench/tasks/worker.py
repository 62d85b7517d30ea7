"""Scoring in another process, which has no privileges: `confined`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from proma_bench.errors import RunError

PROGRAM = Path(__file__).with_name("confined.py")

START_SECONDS = 300
"""For the imports, and for the first questions of slow tasks, on a machine that is busy."""

ANSWER_SECONDS = 60
"""More than the process allows an answer, since it ends late answers itself."""

KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""The variables of the environment that the process gets: without them, libraries may not be found."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Worker:
    """Scores the answers of one task in a process without privileges, which is started with the first answer."""

    def __init__(self, name: str, module: str, options: Mapping[str, Any]) -> None:
        """Store the task.

        Args:
            name: the name of the task in reasoning-gym.
            module: the module that registers the task.
            options: the library's settings of the task, including seed and size.
        """
        self._task = {"name": name, "module": module, "options": options}
        self._process: subprocess.Popen[bytes] | None = None
        self._stop: Callable[[], object] = lambda: None
        self._lock = threading.Lock()

    def is_right(self, entry: Mapping[str, Any], answer: str) -> bool:
        """Whether the library's scorer gives an answer the full score.

        An answer that ends the process, or takes too long, is wrong.

        Args:
            entry: the question in the data set.
            answer: the answer of a model.

        Returns:
            Whether it is right.

        Raises:
            RunError: the process cannot be started.
        """
        reply = b""
        with self._lock:
            try:
                if self._process is None:
                    self._start()
                reply = self._ask({"entry": entry, "answer": answer}, ANSWER_SECONDS)
            finally:
                if reply not in (b"0", b"1"):  # also when interrupted: a reply that comes later is not the next one's
                    self.close()
        return reply == b"1"

    def close(self) -> None:
        """End the process. The next answer starts another one."""
        self._stop()
        self._process = None

    def _start(self) -> None:
        environment = {name: os.environ[name] for name in KEPT if name in os.environ} | ONE_THREAD
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-W", "ignore", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment,
        )
        self._stop = weakref.finalize(self, _end, self._process)
        path = [os.path.abspath(folder) for folder in sys.path]
        reply = self._ask({**self._task, "path": path}, START_SECONDS)
        if reply != b"1":
            self.close()
            name, module = self._task["name"], self._task["module"]
            if reply == b"0":
                raise RunError(
                    f"answers to {name} may be programs, and this kernel or container refuses the seccomp filter for "
                    "the process that scores them; allow seccomp, or choose a task whose scorer was read"
                )
            raise RunError(
                f"the process that scores answers to {name} does not start; try: {sys.executable} -c 'import {module}'"
            )

    def _ask(self, request: Mapping[str, Any], seconds: float) -> bytes:
        """Send a request and read one byte; no byte if the process has ended or takes too long."""
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(plain(request)).encode() + b"\n")
            self._process.stdin.flush()
            if wait([self._process.stdout.fileno()], seconds):
                return os.read(self._process.stdout.fileno(), 1)
        return b""


def plain(value: Any) -> Any:
    """What JSON can say, such that `confined.restored` finds tuples and the keys of dictionaries again.

    Anything else is sent as text, for example a Fraction among the variables of a question.

    Args:
        value: a request.

    Returns:
        Lists, dictionaries, texts and numbers.
    """
    if isinstance(value, Mapping):
        return {"dict": [[plain(key), plain(one)] for key, one in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [plain(one) for one in value]}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with contextlib.suppress(OSError):  # what it has not read
        process.communicate()
