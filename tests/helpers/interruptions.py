"""Commands that are interrupted at random moments, until one attempt gets through, and what they leave."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file
from small_runs import heed_signals, without_timings

from proma_bench.runs.directory import read_run

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
LONGEST = 30.0
"""Seconds for the end of a command, on a machine that is very busy."""


class Command:
    """``proma-bench`` in a session of its own, where signals mean what they mean in a terminal."""

    def __init__(self, *arguments: object) -> None:
        self._streams = [tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")]  # noqa: SIM115
        out, err = self._streams
        command = [sys.executable, "-m", "proma_bench", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdout=out, stderr=err, start_new_session=True, preexec_fn=heed_signals
        )

    def send(self, number: int, *, to_all: bool = False) -> None:
        """Send a signal to the command, or to its workers as well, as a terminal does."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if to_all else os.kill)(self.process.pid, number)

    def end(self, timeout: float = LONGEST) -> int:
        """Wait for the end and return the exit code; then there are ``output`` and ``errors``."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            for left in self.at_work():
                os.kill(left, signal.SIGKILL)
            raise
        texts = []
        for stream in self._streams:
            with stream:
                stream.seek(0)
                texts.append(stream.read())
        self.output, self.errors = texts
        return code

    def orphans(self, patience: float = 5.0) -> list[int]:
        """The processes that are still at work when the command has ended and some time has passed."""
        end = time.monotonic() + patience
        while (found := self.at_work()) and time.monotonic() < end:
            time.sleep(0.02)
        return found

    def at_work(self) -> list[int]:
        """All processes of the session, except those that have ended and wait for somebody to ask."""
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session = status.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.process.pid and state != "Z":
                    found.append(int(status.parent.name))
        return found


@dataclass
class Tally:
    """What has been seen."""

    kills: collections.Counter[str] = field(default_factory=collections.Counter)
    outside_main: collections.Counter[str] = field(default_factory=collections.Counter)
    orphans: int = 0
    slowest: float = 0.0
    finished: int = 0


def interrupt(command: Command, number: signal.Signals, chance: random.Random, tally: Tally) -> bool:
    """Interrupt a command, perhaps twice; whether it was finished already.

    Asserts one line, the exit code and that nothing is left behind.
    """
    numbers, sent = [number], time.monotonic()
    command.send(number, to_all=number != signal.SIGKILL and chance.random() < 0.5)
    if chance.random() < 0.5:
        time.sleep(chance.uniform(0, 0.1))
        numbers.append(chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))  # they may be waiting together
        command.send(numbers[-1])
    code = command.end()
    tally.slowest = max(tally.slowest, time.monotonic() - sent)
    left = command.orphans()
    tally.orphans += len(left)
    assert not left
    if code == 0:
        return True
    tally.kills[number.name] += 1
    errors = command.errors
    if number == signal.SIGKILL:
        assert code == -number
    elif code in [CODES[number] for number in numbers]:
        assert errors.count("\n") == 1 and "interrupted" in errors, errors
    else:  # before `main` or after it: the default action, or for Ctrl-C a traceback of a Python that is starting
        assert "in main" not in errors and (not errors or "KeyboardInterrupt" in errors), (code, errors)
        assert code in [-number for number in numbers] or errors, code
        tally.outside_main[f"{number.name}, code {code}"] += 1
    return False


def contents(root: Path) -> dict[str, object]:
    """What must be equal in two directories: of each run the metrics without timings, and all weights."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("config.json")):
        run = read_run(path.parent)
        assert run.finished, path
        weights = {file.parent.name: load_file(file) for file in path.parent.rglob("policy.safetensors")}
        name = str(path.parent.relative_to(root))
        found[name] = (
            without_timings(run.metrics),
            {(step, key): tensor.tolist() for step, tensors in weights.items() for key, tensor in tensors.items()},
        )
    return found
