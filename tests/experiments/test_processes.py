"""A worker ends with its parent, and neither loses nor gets a signal that is the parent's."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_runs import heed_signals

from proma_bench.experiments.processes import SIGNALS, undisturbed_start

PROGRAM = """
import ctypes, multiprocessing, os, re, sys, threading, time
from proma_bench.experiments import processes

def asleep():
    time.sleep(60)

def in_c():
    re.match("(a+)+$", 64 * "a" + "b")  # no other thread runs meanwhile

def work(kind, by_main_thread):
    if kind == "late":
        processes._end_after = lambda parent: None  # for the pipe would do as well
        print(os.getpid(), flush=True)
        time.sleep(0.5)
    if kind == "by the pipe":  # as where there is no prctl
        processes.sys = type("", (), {"platform": "darwin"})
    processes.live_with_parent(started_by_main_thread=by_main_thread)
    print(os.getpid(), flush=True)
    in_c() if kind == "in C" else asleep()

def start(kind, by_main_thread):
    multiprocessing.get_context("spawn").Process(target=work, args=(kind, by_main_thread), daemon=True).start()
    sys.stdin.readline()

if __name__ == "__main__":
    if sys.argv[1] == "by a thread":
        thread = threading.Thread(target=start, args=(sys.argv[1], False))
        thread.start()
        thread.join()
    else:
        start(sys.argv[1], True)
    time.sleep(60)
"""


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def parent_and_worker(tmp_path, request):
    (tmp_path / "program.py").write_text(PROGRAM)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "program.py", request.param],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=heed_signals,
    )  # fmt: skip
    worker = int(parent.stdout.readline())
    yield parent, worker
    parent.kill()
    parent.wait()
    parent.stdout.close()
    parent.stdin.close()
    if is_alive(worker):
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("parent_and_worker", ["asleep", "in C", "by the pipe", "by a thread", "late"], indirect=True)
def test_a_worker_ends_when_its_parent_is_killed(parent_and_worker):
    parent, worker = parent_and_worker
    time.sleep(0.1)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 30
    while is_alive(worker) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_alive(worker)


@pytest.mark.parametrize("parent_and_worker", ["by a thread"], indirect=True)
def test_a_worker_outlives_the_thread_that_started_it(parent_and_worker):
    parent, worker = parent_and_worker
    parent.stdin.write("\n")  # the thread ends
    parent.stdin.flush()
    time.sleep(0.5)
    assert is_alive(worker)


@pytest.mark.parametrize("parent_and_worker", ["asleep"], indirect=True)
def test_ctrl_c_and_the_end_of_a_terminal_are_the_parents_affair_and_sigterm_ends_a_worker(parent_and_worker):
    _, worker = parent_and_worker
    os.kill(worker, signal.SIGINT)
    os.kill(worker, signal.SIGHUP)
    time.sleep(0.3)
    assert is_alive(worker)
    os.kill(worker, signal.SIGTERM)
    end = time.monotonic() + 30
    while is_alive(worker) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_alive(worker)


@pytest.fixture
def ctrl_c():
    """As usual, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("send", [signal.raise_signal, lambda number: os.kill(os.getpid(), number)])
@pytest.mark.parametrize("threads", [0, 1])
def test_a_signal_while_a_process_starts_is_handled_afterwards(ctrl_c, send, threads):
    over = threading.Event()
    others = [threading.Thread(target=over.wait) for _ in range(threads)]  # does not block signals
    for other in others:
        other.start()
    went_on = False
    try:
        with pytest.raises(KeyboardInterrupt), undisturbed_start():
            send(signal.SIGINT)
            time.sleep(0.05)
            went_on = True
    finally:
        over.set()
    assert went_on
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(SIGNALS)


def test_a_process_starts_with_signals_blocked():
    program = "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    with undisturbed_start():
        output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert all(str(int(number)) in output or number.name in output for number in SIGNALS)
