"""A worker leaves signals to its parent and ends with it, in whatever way the parent ends."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def undisturbed_start() -> Iterator[None]:
    """Start a process in this context. Signals that arrive meanwhile are handled at its end.

    Otherwise the exception raised by a signal could leave a process behind that nobody knows of. The new process begins
    with the signals blocked, until `live_with_parent`.
    """
    if threading.current_thread() is not threading.main_thread():  # signals raise nothing there
        yield
        return
    arrived: list[int] = []
    handlers = {number: handler for number in SIGNALS if callable(handler := signal.getsignal(number))}
    for number in handlers:  # for threads that other libraries have started do not block the signals
        signal.signal(number, lambda number, frame: arrived.append(number))
    resource_tracker.ensure_running()  # otherwise the first start would start it, and unblock signals
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if arrived:
            signal.raise_signal(arrived[0])


def live_with_parent(*, started_by_main_thread: bool) -> None:
    """What a worker does first: end when its parent ends, and ignore Ctrl-C, which a terminal sends to both.

    Args:
        started_by_main_thread: of the parent. Linux ends a worker together with the *thread* that started it, so it is
            asked to only if that thread lasts as long as the process.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "this process is no worker"
    threading.Thread(target=_end_after, args=(parent,), daemon=True, name="parent").start()
    if sys.platform == "linux" and started_by_main_thread:  # also when a function in C keeps threads from running
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent.pid:  # it ended before
            os._exit(1)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()  # returns when the other end of a pipe is closed
    os._exit(1)
