"""SIGINT, SIGTERM and SIGHUP end a command within seconds, with one line and the usual exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 5.0
"""Seconds that a command has for closing what it has open. No result depends on that: a run may be killed anyway."""

_LINE = "proma-bench: interrupted; what is recorded is safe, and `proma-bench report` can read it\n"
_SHOW_CURSOR = "\x1b[?25h"


class Interruption(KeyboardInterrupt):
    """A signal asks the command to end. Code that is prepared for Ctrl-C is prepared for this."""


class Signals:
    """What a command does about signals.

    The first one raises `Interruption` in the main thread; later ones change nothing. The process ends at once where
    the exception would be lost or become another one: in an import, and where Python cannot raise (in ``__del__``). It
    also ends when the command is still there after `GRACE`, for example in a function of a library that takes long.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._is_over = threading.Event()

    @contextlib.contextmanager
    def heeded(self, *, ends_process: bool) -> Iterator[None]:
        """Heed signals in this context. A signal that was ignored before (``nohup``) is still ignored.

        Does nothing outside of the main thread, which alone can handle signals.

        Args:
            ends_process: the process ends after this context: a later signal ends it quietly, or is ignored if it is
                not the first.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        threading.Thread(target=self._end_in_time, args=(reader,), daemon=True, name="signals").start()
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # the thread hears of a signal at once
        self._usual_hook, sys.unraisablehook = sys.unraisablehook, self._on_unraisable
        try:
            for number in before:
                signal.signal(number, self._on_signal)
            yield
        finally:
            if self.received is None or not ends_process:
                for number, handler in before.items():
                    signal.signal(number, signal.SIG_DFL if ends_process else handler)
                sys.unraisablehook = self._usual_hook
                signal.set_wakeup_fd(wakeup)
                self._is_over.set()
                os.close(writer)

    def report(self) -> int:
        """Say that the command was interrupted, and return its exit code."""
        for stream, text in ((sys.stdout, ""), (sys.stderr, _LINE)):
            with contextlib.suppress(OSError):  # the terminal may be gone
                print(text, end="", file=stream, flush=True)
        return 128 + (self.received or signal.SIGINT)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            return
        self.received = number
        if _is_importing(frame):
            self._end()
        raise Interruption

    def _on_unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, Interruption):
            self._end()
        self._usual_hook(unraisable)

    def _end_in_time(self, reader: int) -> None:
        """In a thread, because the main thread handles no signal before it returns from a function in C."""
        with open(reader, "rb", buffering=0) as signals:
            while number := signals.read(1):
                if number[0] in SIGNALS:
                    if not self._is_over.wait(GRACE):
                        self.received = self.received or number[0]
                        self._end()
                    return

    def _end(self) -> NoReturn:
        """End the process now, whatever it is doing."""
        assert self.received is not None
        for descriptor, text in ((1, _SHOW_CURSOR if os.isatty(1) else ""), (2, _LINE)):
            with contextlib.suppress(OSError):
                os.write(descriptor, text.encode())
        os._exit(128 + self.received)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _forget() -> None:
    """In a forked child, which is not the command: signals do there what they do in any process."""
    for number in SIGNALS:
        if getattr(signal.getsignal(number), "__func__", None) is Signals._on_signal:
            signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget)
