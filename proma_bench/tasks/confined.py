"""The program of the process that scores answers with scorers that are not trusted. `worker` starts it, as a script.

It reads requests, one line of JSON each, and writes one character for each: ``1`` for a right answer, otherwise ``0``.
For each answer it forks a child, which gives up all privileges, scores, and says the result by its exit status. So no
answer can change anything for another one, and whatever it does ends with the child. What the child gives up:

- file descriptors: it has none, and cannot open one
- resources: processor time, wall-clock time, address space, size of files, number of processes
- system calls, with seccomp on Linux (x86-64 and ARM64): only those for memory and time are left
- Python's audited operations (files, processes, sockets, ctypes, ...): all but those of plain computing

The file imports nothing of this package, which would import torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import platform
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO

CPU_SECONDS = 5
WALL_SECONDS = 30
"""For an answer that waits, on a machine that is busy."""

DESCRIPTORS = 1024
"""More than are open."""

MEMORY = 1 << 30
"""Bytes of address space, of which Python and the libraries use 0.2 GB."""

RIGHT = 42
"""The exit status for a right answer. A child that fails or is killed has another one."""

WARM_UP = 8
"""Number of questions whose own answers are scored at first: a child cannot import what is imported only then."""

HARMLESS = frozenset("compile exec import builtins.id object.__getattr__ sys._getframe sys._getframemodulename".split())
"""The audited operations of plain computing."""

# Of Linux: linux/prctl.h, linux/seccomp.h, linux/filter.h, linux/audit.h, and its tables of system calls.
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # REFUSE: the call fails with EPERM
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, ARCHITECTURE = 0, 4  # offsets in seccomp_data
SYSTEM_CALLS = {
    # brk mmap munmap mremap mprotect madvise futex exit exit_group rt_sigreturn clock_gettime gettimeofday getrandom
    # sched_yield getpid gettid
    "x86_64": (0xC000003E, (12, 9, 11, 25, 10, 28, 202, 60, 231, 15, 228, 96, 318, 24, 39, 186)),
    "aarch64": (0xC00000B7, (214, 222, 215, 216, 226, 233, 98, 93, 94, 139, 113, 169, 278, 124, 172, 178)),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _prctl(option: int, *arguments: int | ctypes.c_void_p) -> bool:
    padded = [*arguments, 0, 0, 0, 0][:4]
    call = ctypes.CDLL(None).prctl
    return call(option, *(one if isinstance(one, ctypes.c_void_p) else ctypes.c_ulong(one) for one in padded)) == 0


def filter_system_calls() -> bool:
    """Leave this process, for ever, only the system calls of `SYSTEM_CALLS`.

    Returns:
        Whether that was done; False on another platform than Linux on x86-64 or ARM64.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in SYSTEM_CALLS:
        return False
    architecture, allowed = SYSTEM_CALLS[machine]
    program = [(LOAD, 0, 0, ARCHITECTURE), (JUMP_IF_EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL)]
    program += [(LOAD, 0, 0, NUMBER)]
    for number in allowed:
        program += [(JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    program += [(RETURN, 0, 0, REFUSE)]
    instructions = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    filter = _Program(len(program), instructions)
    address = ctypes.cast(ctypes.pointer(filter), ctypes.c_void_p)
    return _prctl(PR_SET_NO_NEW_PRIVS, 1) and _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, address)


def can_filter() -> bool:
    """Whether a child can filter its system calls; also True where no filter is known, on another platform."""
    child = os.fork()
    if child == 0:
        known = sys.platform == "linux" and platform.machine() in SYSTEM_CALLS
        os._exit(0 if filter_system_calls() or not known else 1)
    return os.waitpid(child, 0)[1] == 0


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in HARMLESS:
        raise PermissionError(f"{event} is not allowed here")


def give_up_privileges() -> None:
    """Keep only what computing needs. There is no way back."""
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.alarm(WALL_SECONDS)
    os.closerange(0, DESCRIPTORS)
    limits = {"CPU": CPU_SECONDS, "AS": MEMORY, "FSIZE": 0, "NOFILE": 0, "NPROC": 0, "CORE": 0}
    for name, limit in limits.items():
        with contextlib.suppress(ValueError, OSError):  # macOS has no limit of the address space
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    filter_system_calls()
    sys.addaudithook(_refuse)


def restored(value: dict[str, Any]) -> Any:
    """What `worker.plain` made from tuples and dictionaries."""
    return tuple(value["tuple"]) if "tuple" in value else dict(value["dict"])


def _is_right(dataset: Any, entry: dict[str, Any], answer: str) -> bool:
    try:
        return bool(dataset.score_answer(answer, entry) >= 1)
    except BaseException:  # the answer chooses what is raised
        return False


def _score(dataset: Any, entry: dict[str, Any], answer: str) -> bool:
    """Score in a child without privileges."""
    child = os.fork()
    if child == 0:
        status = 0
        try:
            give_up_privileges()
            status = RIGHT if _is_right(dataset, entry, answer) else 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == RIGHT


def _dataset(task: dict[str, Any]) -> Any:
    """The task's scorer, with everything imported that it needs."""
    sys.path[:] = task["path"]
    importlib.import_module(task["module"])
    import reasoning_gym

    dataset = reasoning_gym.create_dataset(task["name"], **task["options"])
    for index in range(min(WARM_UP, len(dataset))):
        entry = dataset[index]
        _is_right(dataset, entry, entry["answer"] or "")
    return dataset


def serve(requests: BinaryIO, replies: int) -> None:
    """Score what is requested, until the end of the requests.

    Args:
        requests: the task, then an entry and an answer in each line.
        replies: the file descriptor for one character for each line; after the task it is ``1`` if answers can come,
            or ``0`` if the kernel has no filter of system calls, which it should have.
    """
    dataset = _dataset(json.loads(requests.readline(), object_hook=restored))
    gc.collect()
    gc.freeze()  # children share memory as long as nothing writes to it
    os.write(replies, b"1" if can_filter() else b"0")
    for line in requests:
        request = json.loads(line, object_hook=restored)
        os.write(replies, b"1" if _score(dataset, request["entry"], request["answer"]) else b"0")


if __name__ == "__main__":
    replies = os.dup(1)  # what the library prints goes nowhere
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    serve(sys.stdin.buffer, replies)
