"""The figures of lesson 8, *Your own update on the ladder*."""

from __future__ import annotations

import matplotlib.pyplot as plt

from figures import NEUTRAL, look
from proma_bench.report.paired import Estimate


def score_by_kl(spent: dict[str, list[float]], reached: dict[str, list[float]], target: float, title: str) -> None:
    """The final score against the mean local KL, of each method at each learning rate; a line where it is matched."""
    _, axes = plt.subplots(figsize=(7, 4))
    for method, kl in spent.items():
        axes.plot(kl, reached[method], **look(method))
    axes.axvline(target, color=NEUTRAL, linestyle=":", marker="", label="as REINFORCE at 0.005")
    axes.set(xscale="log", xlabel="mean local KL of a step (nats)", ylabel="final sampled score", title=title)
    axes.legend(fontsize=8)
    plt.show()


def gains(found: dict[str, Estimate]) -> None:
    """Each method's gain and its interval, at the same local KL."""
    _, axes = plt.subplots(figsize=(7, 0.7 + 0.5 * len(found)))
    for row, (method, one) in enumerate(found.items()):
        style = look(method)
        axes.plot(one.estimate, row, marker=style["marker"], color=style["color"], markersize=8)
        axes.plot([one.low, one.high], [row, row], "-", color=style["color"], linewidth=2.5, marker="")
    axes.axvline(0, color=NEUTRAL, linestyle="--", marker="")
    axes.set_yticks(range(len(found)), [look(method)["label"] for method in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set(xlabel="final sampled score minus REINFORCE's, at the same local KL")
    plt.show()
