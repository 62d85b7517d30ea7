"""Standard output and error that fail late: what was computed is written first, whoever has stopped reading."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


class _Stream(io.FileIO):
    """A file descriptor that keeps its first problem instead of raising it."""

    problem: str | None = None

    def write(self, content: Any, /) -> int:
        if self.problem is None:
            try:
                return super().write(content)
            except OSError as error:
                self.problem = error.strerror
        return len(content)


@contextlib.contextmanager
def patient_streams() -> Iterator[None]:
    """Let no printing fail: not to a closed or full output, nor of a character that it cannot show.

    Streams that are not the process's own, as in a notebook or a test, are left alone.

    Raises:
        SystemExit: after the block, with code 1, where standard output did not take everything.
    """
    own = sys.stdout, sys.stderr
    output = _patient("stdout", 1)
    _patient("stderr", 2)
    try:
        yield
    finally:
        if output is not None:
            sys.stdout.flush()
            if output.problem is not None:
                print(
                    f"proma-bench: standard output: {output.problem}; printed lines are lost, files are not",
                    file=sys.stderr,
                )
        sys.stderr.flush()
        sys.stdout, sys.stderr = own
        if output is not None and output.problem is not None:
            raise SystemExit(1)


def _patient(name: str, descriptor: int) -> _Stream | None:
    own = getattr(sys, f"__{name}__")
    if getattr(sys, name) is not own:
        return None
    try:
        stream = _Stream(descriptor, "w", closefd=False)
    except OSError as error:  # closed; its number must not go to the next file that is opened
        place = os.open(os.devnull, os.O_WRONLY)
        stream = _Stream(place, "w", closefd=False)
        stream.problem = error.strerror
    encoding = own.encoding if own is not None else "utf-8"
    text = io.TextIOWrapper(
        io.BufferedWriter(stream), encoding, "backslashreplace", line_buffering=name == "stderr" or stream.isatty()
    )
    if own is not None:
        own.flush()
    setattr(sys, name, text)
    return stream
