"""Where the time of a call goes, operator by operator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

KEPT = 8


def seconds_by_operator(call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """The operators that take the most time themselves, their callees not included, in one call after a first one."""
    call()
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        call()
        if on_gpu:
            torch.cuda.synchronize()
    averages = profiler.key_averages()
    own = {item.key: item.self_device_time_total if on_gpu else item.self_cpu_time_total for item in averages}
    ranked = sorted(own.items(), key=lambda pair: -pair[1])[:KEPT]
    return {name: microseconds / 1e6 for name, microseconds in ranked}
