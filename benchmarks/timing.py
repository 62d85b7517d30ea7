"""Times of several things taken in turn in one process, as ratios to one of them.

Between processes and machines, and within a minute on a shared one, times differ by tens of per cent. Taken in turn,
round after round, whatever slows the machine down slows all contenders down, and the ratio *within a round* stays.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch

SHORTEST = 0.002  # seconds: what takes less is repeated within one measurement


@dataclass(frozen=True)
class Timing:
    """Median and quartiles over rounds: of the seconds, and of the ratio to the baseline in the same round."""

    seconds: float
    seconds_q1: float
    seconds_q3: float
    ratio: float
    ratio_q1: float
    ratio_q3: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


class Contest:
    """Contenders that are timed in turn, one after another in every round."""

    def __init__(self, contenders: Mapping[str, Callable[[], object]], baseline: str, device: torch.device) -> None:
        """Raises KeyError for a baseline that is not among the contenders."""
        self.contenders, self.baseline, self.device = dict(contenders), baseline, device
        contenders[baseline]
        self.seconds: dict[str, list[float]] = {name: [] for name in contenders}
        self._repeats = dict.fromkeys(contenders, 1)
        self._timed = _timed_on_gpu if device.type == "cuda" else _timed

    def warm_up(self) -> float:
        """Call everything twice, fix how often each is repeated, and return the seconds that a round takes.

        The first calls allocate buffers and fill caches; for gradients they are also the first microbatch of a step,
        which has nothing to project. Everything measured is a second or later one.
        """
        total = 0.0
        for name, contender in self.contenders.items():
            contender()
            seconds = self._timed(contender, 1)
            self._repeats[name] = max(1, math.ceil(SHORTEST / seconds))
            total += self._repeats[name] * seconds
        gc.collect()
        gc.freeze()  # the collection before each round need not look at everything that was imported
        return total

    def round(self) -> None:
        """Time every contender once. Each round begins with another one, so that none always follows the same."""
        names = list(self.contenders)
        first = len(self.seconds[self.baseline]) % len(names)
        gc.collect()
        gc.disable()
        try:
            for name in names[first:] + names[:first]:
                repeats = self._repeats[name]
                self.seconds[name].append(self._timed(self.contenders[name], repeats) / repeats)
        finally:
            gc.enable()

    def result(self) -> dict[str, Timing]:
        """What the rounds so far have shown."""
        gc.unfreeze()
        baseline = np.array(self.seconds[self.baseline])
        return {name: _timing(np.array(seconds), baseline) for name, seconds in self.seconds.items()}


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    baseline: str,
    device: torch.device | None = None,
) -> dict[str, Timing]:
    """Warm up, time the contenders in turn for so many rounds, and compare each with the baseline round by round."""
    contest = Contest(contenders, baseline, device or torch.device("cpu"))
    contest.warm_up()
    for _ in range(rounds):
        contest.round()
    return contest.result()


def _timing(seconds: np.ndarray, baseline: np.ndarray) -> Timing:
    q1, median, q3 = np.quantile(seconds, [0.25, 0.5, 0.75])
    ratio_q1, ratio, ratio_q3 = np.quantile(seconds / baseline, [0.25, 0.5, 0.75])
    return Timing(*map(float, (median, q1, q3, ratio, ratio_q1, ratio_q3)))


def _timed(call: Callable[[], object], repeats: int) -> float:
    """Seconds; with one thread those that the process was running, which work of others on the machine does not add to.

    With several threads, those that wait for one another would count as busy.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    for _ in range(repeats):
        call()
    return clock() - started


def _timed_on_gpu(call: Callable[[], object], repeats: int) -> float:
    """By events on the stream, with an empty queue before and after: launches alone are not the work."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000
