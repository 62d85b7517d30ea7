"""The figures of lesson 1, *A bandit you can solve on paper*."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from figures import NEUTRAL, arrow, grouped_bars, look

MARKERS = "os^D"


def quadratic(exact: Callable[[Tensor], Tensor], approximate: Callable[[Tensor], Tensor], direction: Tensor) -> None:
    """The KL divergence and its quadratic form, over the first two logits and along a direction [3]."""
    line = torch.linspace(-2, 2, 121, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
    grid = torch.cat([grid, torch.zeros(*grid.shape[:2], 1)], dim=-1)
    lengths = torch.logspace(-2, 0.5, 30, dtype=torch.float64)
    ray = lengths[:, None] * direction
    _, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4))
    levels = [0.01, 0.05, 0.15, 0.3]
    lines = left.contour(grid[..., 0], grid[..., 1], exact(grid), levels, colors="black")
    left.contour(grid[..., 0], grid[..., 1], approximate(grid), levels, colors=NEUTRAL, linestyles="dashed")
    left.clabel(lines, fontsize=8)
    arrow(left, direction[:2])
    left.set(xlabel="step along θ₁", ylabel="step along θ₂", aspect="equal", title="solid: exact KL, dashed: ½ δᵀFδ")
    right.loglog(lengths, exact(ray), label="exact KL", markevery=6)
    right.loglog(lengths, approximate(ray), label="½ δᵀFδ", markevery=(3, 6))
    right.loglog(lengths, (exact(ray) - approximate(ray)).abs(), label="difference", markevery=6)
    right.set(xlabel="length of the step", ylabel="nats", title="along the arrow")
    right.legend()
    plt.show()


def probabilities(after: dict[str, Tensor]) -> None:
    """The probabilities of the three actions, by what was done."""
    _, axes = plt.subplots(figsize=(7, 3.4))
    grouped_bars(axes, after, ["action 1\n(the old sample)", "action 2\n(the new sample)", "action 3"])
    axes.set(ylabel="probability", ylim=(0, 0.8))
    axes.legend(loc="upper right")
    plt.show()


def stiffness(shares: dict[str, Tensor], looks: dict[str, tuple[str, int]], draws: int) -> None:
    """Where accumulated steps point: the share of their square in the softest eigenvectors of F, cumulated."""
    _, axes = plt.subplots(figsize=(7, 3.6))
    for name, values in shares.items():
        method, variant = looks[name]
        axes.plot(range(1, len(values) + 1), values, **look(method, name, variant), markevery=2)
    axes.set(
        xlabel="eigenvectors of F, from the softest to the stiffest",
        ylabel="share of the step's square\nin these so far",
        title=f"where a step points (mean of {draws} bandits)",
        xticks=range(2, len(values) + 1, 2),
    )
    axes.legend()
    plt.show()


def digits(runs: dict[tuple[str, float], Tensor]) -> None:
    """Accuracy by steps and by local KL [steps, 3], of each method and learning rate."""
    _, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    rates = sorted({rate for _, rate in runs})
    for (method, rate), history in runs.items():
        style = look(method, f"{look(method)['label']}, {rate:g}") | {"marker": MARKERS[rates.index(rate) % 4]}
        style["markevery"] = max(1, len(history) // 6)
        panels[0].plot(range(1, len(history) + 1), history[:, 0], **style)
        panels[1].plot(history[:, 1].cumsum(0), history[:, 0], **style)
    panels[0].set(xlabel="optimizer step", ylabel="validation accuracy (sampled)", title="by steps")
    panels[1].set(xlabel="sum of local KL (nats)", xscale="log", title="by the local KL spent")
    panels[1].legend(title="method, learning rate", fontsize=8, ncols=1)
    plt.show()
