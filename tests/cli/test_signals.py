"""Signals end a command whatever it is doing, also where an exception would get lost."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest
from small_runs import heed_signals

from proma_bench.cli import main

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
LINE = "proma-bench: interrupted; what is recorded is safe, and `proma-bench report` can read it\n"


def program(work, *, arguments="None"):
    """The command line with other work to do, and less patience."""
    return (
        "import ctypes, importlib, os, signal, sys, time\n"
        "from proma_bench import cli\n"
        "from proma_bench.cli import signals\n"
        "signals.GRACE = 0.5\n"
        f"def work(arguments):\n    print('ready', flush=True)\n{work}"
        f"cli._run = work\nsys.exit(cli.main({arguments}))\n"
    )


def started(code, **options):
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        **{"preexec_fn": heed_signals, **options},
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)  # from saying so to doing it
    return process


def ended(process, timeout=30):
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, errors


WORK = {
    "python": "    while True: pass\n",
    "a function in C": "    ctypes.CDLL(None).sleep(60)\n",
    "what takes Ctrl-C for its own": (
        "    while True:\n        try: time.sleep(60)\n        except KeyboardInterrupt: pass\n"
    ),
    "cleaning up that never ends": "    try: time.sleep(60)\n    finally: time.sleep(60)\n",
    "cleaning up that fails": "    try: time.sleep(60)\n    finally: os.close(12345)\n",
    "__del__": (
        "    class Slow:\n        def __del__(self): time.sleep(3)\n"
        "    Slow()\n    print('went on', flush=True)\n    time.sleep(60)\n"
    ),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_one_line_and_the_usual_code_whatever_it_is_doing(work):
    process = started(program(work))
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "", LINE)


def test_a_call_returns_the_code():
    process = started(program("    time.sleep(60)\n", arguments="[]"))
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "", LINE)


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_every_signal_and_then_others_while_it_ends(number):
    process = started(program("    try: time.sleep(60)\n    finally: time.sleep(0.3)\n"))
    process.send_signal(number)
    time.sleep(0.05)  # of signals that are waiting together, the system chooses which comes first
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end:
        for other in CODES:
            process.send_signal(other)
        time.sleep(0.01)
    assert ended(process) == (CODES[number], "", LINE)


def test_an_import_that_swallows_it(tmp_path):
    """What is imported only in part must not be used."""
    (tmp_path / "careless.py").write_text("import time\ntry: time.sleep(60)\nexcept BaseException: pass\n")
    work = f"    sys.path.insert(0, {str(tmp_path)!r})\n    import careless\n    print('went on', flush=True)\n"
    process = started(program(work))
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "", LINE)


def test_what_is_ignored_stays_ignored():
    """As ``nohup`` has it for SIGHUP, and a shell for Ctrl-C in the background."""

    def ignore():
        heed_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = started(program("    time.sleep(1)\n    return 0\n"), preexec_fn=ignore)
    process.send_signal(signal.SIGHUP)
    assert ended(process) == (0, "", "")


def test_a_forked_child_dies_of_a_signal_and_the_command_goes_on():
    work = (
        "    child = os.fork()\n    if not child:\n        time.sleep(60)\n        os._exit(0)\n"
        "    time.sleep(0.3)\n    os.kill(child, signal.SIGTERM)\n    print(os.waitpid(child, 0)[1], flush=True)\n"
        "    time.sleep(1)\n    return 0\n"
    )
    assert ended(started(program(work))) == (0, "15\n", "")


def test_a_terminal_that_is_closed():
    """The kernel sends SIGHUP; what is printed then fails."""
    terminal, theirs = pty.openpty()

    def take_terminal():
        heed_signals()
        os.setsid()
        os.close(os.open(os.ttyname(theirs), os.O_RDWR))  # the first one that is opened becomes the session's

    work = "    try: time.sleep(60)\n    finally: print('more')\n"
    process = subprocess.Popen(
        [sys.executable, "-c", program(work)], stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take_terminal
    )
    os.close(theirs)
    assert b"ready" in os.read(terminal, 100)
    os.close(terminal)
    assert process.wait(timeout=30) == 129


def test_in_a_call_the_callers_handlers_come_back():
    before = [signal.getsignal(number) for number in CODES]
    assert main(["run", "bandit", "--steps", "0"]) == 2
    assert [signal.getsignal(number) for number in CODES] == before
    assert signal.set_wakeup_fd(-1) == -1
    for thread in threading.enumerate():
        if thread.name == "signals":
            thread.join(timeout=30)
            assert not thread.is_alive()


def test_outside_of_the_main_thread_it_works_without_signals(capsys):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main(["run", "bandit", "--steps", "0"])))
    thread.start()
    thread.join()
    assert codes == [2]
    assert "steps must be at least 1" in capsys.readouterr().err
