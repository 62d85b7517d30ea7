"""Learning rates at which methods change the policy by the same amount, measured by their mean local KL.

At one learning rate, methods spend different amounts of policy change, and any method spends less at a lower one. So
methods are compared at the rates at which all spend what the baseline does at the tier's default rate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from proma_bench.runs.directory import Run

BASELINE = "reinforce"
MATCHED = "match_kl"
"""In ``ladder.json``, once a ladder has been followed by runs at matched rates."""
TOLERANCE = 0.05
"""How far the mean local KL at a matched rate may be from that of the baseline, as a share of it."""

KnownKL = Mapping[float, float]
"""Of one method: the mean local KL over steps and seeds, by learning rate."""


def mean_local_kl(runs: Sequence[Run]) -> float:
    """The local KL in nats, averaged over the steps of each run and over the runs; NaN where a run has none."""
    return math.fsum(map(_mean_of_steps, runs)) / len(runs)


def _mean_of_steps(run: Run) -> float:
    measured = [step["kl_local"] for step in run.metrics if step.get("kl_local") is not None]
    return math.fsum(measured) / len(measured) if measured else math.nan


def matched_rate(known: KnownKL, target: float) -> float | None:
    """The learning rate whose local KL is nearest to the target; None if none is within the tolerance."""
    measured = [rate for rate in known if not math.isnan(known[rate])]
    nearest = min(measured, key=lambda rate: abs(known[rate] - target), default=None)
    return None if nearest is None or abs(known[nearest] - target) > TOLERANCE * target else nearest


def next_rate(known: KnownKL, target: float) -> float | None:
    """A rate to try: by false position, on a line in the logarithms, between two rates that enclose the target.

    Args:
        known: what was tried so far.
        target: the local KL that is wanted, above zero.

    Returns:
        The rate, to four digits; None if one is matched already, or no two neighbours enclose the target. If several
        do, it is between the lowest.
    """
    if matched_rate(known, target) is not None:
        return None
    tried = [(rate, known[rate]) for rate in sorted(known) if known[rate] > 0]
    for (low, kl_low), (high, kl_high) in itertools.pairwise(tried):
        if (kl_low - target) * (kl_high - target) < 0:
            share = math.log(target / kl_low) / math.log(kl_high / kl_low)
            rate = float(f"{low * (high / low) ** share:.4g}")
            return None if rate in known else rate
    return None
