"""Peak memory of a call.

On a CPU every allocation and release that torch's own allocator makes is taken from the profiler and added up. That
is exact and repeatable to the byte, and includes the buffers inside of an operator, which a dispatch mode cannot see.
The resident set size would have to be polled, counts what the C library keeps for later, and needs a fresh process for
every number. What is not counted is the scratch space of the matrix library, which all contenders share.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes of tensors alive at one time during the call, less those alive before it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        call()
    return _highest(profiler)


def _highest(profiler: profile) -> int:
    """The highest value of the running sum over allocations (positive) and releases (negative)."""
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    alive = highest = 0
    for _, change in changes:
        alive += change
        highest = max(highest, alive)
    return highest
