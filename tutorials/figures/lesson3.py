"""The figures of lesson 3, *Episodes*."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from figures import NEUTRAL, look
from proma_bench.learning.methods import METHODS
from proma_bench.report.paired import Estimate


def one_run_each(histories: dict[str, list[dict[str, Any]]]) -> None:
    """The score of one run of each method."""
    _, axes = plt.subplots()
    for method, history in histories.items():
        axes.plot([step["step"] for step in history], [step["score"] for step in history], markersize=4, **look(method))
    axes.set(xlabel="optimizer step", ylabel="return of the greedy policy", title="One seed tells you about one seed")
    axes.legend()
    plt.show()


def claims(rows: list[tuple[Any, str, Any, Any]], margin: float) -> None:
    """For each claim, baseline, differences of pairs and result: the pairs, the interval, and the line to clear."""
    _, axes = plt.subplots(figsize=(9, 4.2))
    for row, (claim, _, differences, result) in enumerate(rows):
        unit = np.nanstd(differences) or 1.0
        direction = -1 if claim.statement == "lower" else 1
        limit = -margin / unit if claim.statement == "not lower" else 0.0
        axes.plot(direction * differences / unit, [row] * len(differences), "o", color="#999999", markersize=4)
        ends = [np.nan if end is None else direction * end / unit for end in (result.ci_low, result.ci_high)]
        axes.plot(ends, [row - 0.25] * 2, "k-", linewidth=3, marker="|")
        axes.plot([limit] * 2, [row - 0.45, row + 0.45], "k--", linewidth=1.5, marker="")
        axes.text(1.02, row, result.verdict, va="center", transform=axes.get_yaxis_transform())
    names = [f"{claim.text}\nthan with {METHODS[baseline].style.title}" for claim, baseline, _, _ in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlabel("difference, in standard deviations of the differences (right: as the claim says)")
    axes.set_title("Pairs (grey), interval (black), and the line that it must clear (dashed)", fontsize=10)
    plt.show()


def closing_in(intervals: dict[str, list[Estimate]], titles: dict[str, str]) -> None:
    """Estimates and intervals from the first five pairs, six pairs, and so on, for each baseline."""
    _, panels = plt.subplots(1, len(intervals), figsize=(9, 3.2))
    for axes, (baseline, found) in zip(panels, intervals.items(), strict=True):
        for n, one in enumerate(found, start=5):
            axes.plot([n, n], [one.low, one.high], "k-", linewidth=2, marker="_")
            axes.plot(n, one.estimate, "ko")
        axes.axhline(0, linestyle="--", color=NEUTRAL, marker="")
        axes.set(xlabel="pairs", title=titles[baseline], xlim=(4.5, 4.5 + len(found)))
    panels[0].set_ylabel("difference (nats)")
    plt.show()
