"""Learning curves of a rung, as one PNG with four panels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proma_bench.report.statistics import CONFIDENCE, Group, interval

PANELS = (
    ("accuracy", "validation score (greedy)"),
    ("entropy", "entropy (nats)"),
    ("kl_local", "local KL, before ‖ after a step (nats)"),
    ("kl_global", "global KL, current ‖ initial (nats)"),
)
# Okabe and Ito's palette keeps apart for colour-blind readers; dashes and the legend do in print.
COLOURS = {"reinforce": "#0072B2", "grpo": "#D55E00", "proma": "#009E73"}
DASHES = {"reinforce": (0, (1, 1)), "grpo": (0, (4, 1.5)), "proma": "solid"}


def plot_tier(tier: str, groups: Sequence[Group], path: Path) -> Path:
    """Draw score, entropy, local and global KL against the optimizer step, and write them to ``path``."""
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    for axes, (metric, label) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for group in groups:
            _draw(axes, group, metric, _label(group, groups))
        axes.set(xlabel="optimizer step", ylabel=label)
        axes.grid(alpha=0.25)
    seeds = sorted({len(group.runs) for group in groups})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    figure.suptitle(f"{tier}: mean over {count} seeds, shaded {CONFIDENCE:.0%} bootstrap intervals")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(groups), handlelength=3.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _draw(axes: Axes, group: Group, metric: str, label: str) -> None:
    series = group.series(metric)
    steps = np.arange(1, series.shape[1] + 1)
    colour = COLOURS.get(group.method, "black")
    mean, low, high = interval(series)
    axes.plot(steps, mean, color=colour, linestyle=DASHES.get(group.method, "dashdot"), label=label)
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)


def _label(group: Group, groups: Sequence[Group]) -> str:
    """The method's name, with the learning rate where a method has several."""
    name = {"reinforce": "REINFORCE", "grpo": "GRPO", "proma": "PROMA"}.get(group.method, group.method)
    several = sum(other.method == group.method for other in groups) > 1
    return f"{name}, lr {group.learning_rate:g}" if several else name
