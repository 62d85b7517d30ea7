"""The process that scores: what an answer that is evaluated there can do, and what becomes of the process."""

import json
import os
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
import reasoning_gym
from escapes import ANYTHING, harms, trap

from proma_bench.errors import RunError
from proma_bench.tasks import confined
from proma_bench.tasks.worker import PROGRAM, Worker, plain

TASK = "polynomial_multiplication"
MODULE = "reasoning_gym.algebra.polynomial_multiplication"
ENTRY = reasoning_gym.create_dataset(TASK, seed=0, size=1)[0]
RIGHT, WRONG = ENTRY["answer"], ENTRY["answer"] + " + 1"


def made() -> Worker:
    return Worker(TASK, MODULE, {"seed": 0, "size": 6000})


@pytest.fixture(scope="module")
def worker():
    worker = made()
    yield worker
    worker.close()


def test_scores_are_the_library_s(worker):
    assert worker.is_right(ENTRY, RIGHT) and worker.is_right(ENTRY, f" ({RIGHT})  + 0")
    assert not any(worker.is_right(ENTRY, wrong) for wrong in (WRONG, "", "x", "\0", "\ud800", "\n1\n1"))


def test_an_answer_is_evaluated_and_prevents_nothing_but_its_own_score(worker):
    assert worker.is_right(ENTRY, ANYTHING)
    forged = (
        "exec('import sympy; sympy.Poly = sympy.parse_expr = lambda *_, **__: 1; import os; os.write(1, b\"111\")')"
    )
    assert not worker.is_right(ENTRY, forged)
    assert not worker.is_right(ENTRY, WRONG) and worker.is_right(ENTRY, RIGHT)


def test_nothing_outside_is_reached(worker, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", "not to be read")
    process = worker._process
    secrets = [
        f"'not to be read' in open('/proc/{pid}/environ').read()" for pid in ("self", "1", os.getpid(), os.getppid())
    ]
    assert worker.is_right(ENTRY, f"{ANYTHING} if ('x' in 'x') else 0")
    with trap(tmp_path) as canary:
        for harm in [
            *harms(canary),
            *secrets,
            "'not to be read' in str(__import__('os').environ)",
            "len(__import__('os').listdir('/'))",
            "__import__('os').stat('/etc/passwd')",
            "open('/etc/passwd').read()",
            "__import__('os').read(0, 1)",
            "__import__('os').fstat(1)",
            "__import__('fcntl').fcntl(2, 3)",
        ]:
            assert not worker.is_right(ENTRY, f"{ANYTHING} if ({harm}) else 0"), harm
            assert not canary.sprung, harm
    assert worker.is_right(ENTRY, RIGHT) and worker._process is process


def test_what_takes_too_much_time_or_memory_is_ended(worker):
    process, began = worker._process, time.monotonic()
    for bomb in ("9**9**9**9", "eval('[0] * 10**11')", "eval('bytearray(3 * 10**9)')", "(" * 100_000):
        assert not worker.is_right(ENTRY, f"{ANYTHING} if {bomb} else {ANYTHING}"), bomb
    assert time.monotonic() - began < 120
    assert worker.is_right(ENTRY, RIGHT) and worker._process is process


def test_a_process_that_dies_costs_one_answer_and_is_replaced():
    worker = made()
    assert worker.is_right(ENTRY, RIGHT)
    ended = worker._process
    ended.kill()
    assert not worker.is_right(ENTRY, RIGHT)
    assert worker.is_right(ENTRY, RIGHT) and ended.poll() is not None
    process = worker._process
    del worker
    assert process.poll() is not None


def test_an_interrupted_answer_leaves_no_reply_for_the_next_one(monkeypatch):
    worker = made()
    assert worker.is_right(ENTRY, RIGHT)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("proma_bench.tasks.worker.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.is_right(ENTRY, RIGHT)
    assert not worker.is_right(ENTRY, WRONG)


def test_a_reply_that_is_late_or_no_reply_is_not_trusted(monkeypatch, tmp_path):
    program = "import sys, time\nfor line in sys.stdin:\n    print(next(replies), end='', flush=True)"
    for second, seconds in (("'yes'", 60), ("time.sleep(60)", 0.5)):
        path = tmp_path / "program.py"
        path.write_text(f"replies = (reply() for reply in (lambda: 1, lambda: {second}))\n{program}")
        monkeypatch.setattr("proma_bench.tasks.worker.PROGRAM", path)
        monkeypatch.setattr("proma_bench.tasks.worker.ANSWER_SECONDS", seconds)
        worker = made()
        assert not worker.is_right(ENTRY, RIGHT)
        assert worker._process is None


def test_a_process_that_does_not_start_is_an_error_in_words():
    with pytest.raises(RunError, match=r"does not start; try: .* -c 'import reasoning_gym'"):
        Worker("no such task", "reasoning_gym", {}).is_right(ENTRY, RIGHT)


def test_without_the_filter_of_system_calls_nothing_is_scored_where_there_should_be_one(monkeypatch, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.read_text().replace("PR_SET_SECCOMP, SECCOMP_MODE_FILTER", "PR_SET_SECCOMP, 99"))
    monkeypatch.setattr("proma_bench.tasks.worker.PROGRAM", path)
    if sys.platform == "linux":
        with pytest.raises(RunError, match="refuses the seccomp filter"):
            made().is_right(ENTRY, RIGHT)


def test_the_process_ends_with_its_parent():
    task = {"name": TASK, "module": MODULE, "options": {"seed": 0, "size": 1}, "path": sys.path}
    command = [sys.executable, "-I", str(PROGRAM)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdin.write(json.dumps(plain(task)).encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.read(1) == b"1"
        process.stdin.close()  # as when the parent ends
        assert process.wait(60) == 0


def test_requests_keep_tuples_keys_and_numbers():
    value = {"a": (1, [(2,)]), 3: {"tuple": 1, "dict": [[0, 1]]}, "f": np.float64(0.5), "n": [np.int64(7), None, True]}
    kept = json.loads(json.dumps(plain(value)), object_hook=confined.restored)
    assert kept == value and type(kept["a"][1][0]) is tuple
    assert plain(Fraction(1, 2)) == "1/2"


OPERATIONS = {
    "open a file": "open('/etc/passwd')",
    "write a file": "open('/tmp/canary', 'w')",
    "list a folder": "os.listdir('/')",
    "make a folder": "os.mkdir('/tmp/canary')",
    "call a server": "socket.socket()",
    "run a program": "os.execv('/bin/true', ['true'])",
    "start a process": "subprocess.Popen('/bin/true')",
    "end the parent": "os.kill(os.getppid(), 0)",
}
LAYERS = {
    "system calls": "sys.addaudithook = resource.setrlimit = os.closerange = lambda *_: None",
    "audited operations": "confined.filter_system_calls = resource.setrlimit = os.closerange = lambda *_: None",
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_layer_alone_refuses(layer, operation):
    if layer == "system calls" and sys.platform != "linux":
        pytest.skip("Linux only")
    program = f"""
import os, resource, socket, subprocess, sys
sys.path.insert(0, {str(PROGRAM.parent)!r})
import confined
{LAYERS[layer]}
confined.give_up_privileges()
try:
    {OPERATIONS[operation]}
except PermissionError:
    os._exit(3)
os._exit(4)
"""
    assert subprocess.run([sys.executable, "-I", "-c", program]).returncode == 3


def test_without_any_layer_each_operation_works():
    for operation in OPERATIONS.values():
        program = f"import os, socket, subprocess, tempfile\n{operation.replace('/tmp/canary', '{}')}"
        program = program.replace("'{}'", "tempfile.mkdtemp() + '/canary'")
        assert subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", program]).returncode == 0, operation
