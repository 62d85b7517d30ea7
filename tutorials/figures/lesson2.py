"""The figures of lesson 2, *Exact, approximate, and what each costs*."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from figures import LEFT, NEUTRAL, grouped_bars


def one_after_another(angles: Sequence[float]) -> None:
    """Three sweeps over two gradients in a plane, for each angle between them in degrees."""
    _, panels = plt.subplots(1, len(angles), figsize=(9, 4), sharey=True)
    for axes, degrees in zip(panels, angles, strict=True):
        at = torch.deg2rad(torch.tensor([100.0, 100.0 + degrees]))
        pair = torch.stack([at.cos(), at.sin()], dim=1)
        path = [torch.tensor([0.9, 1.0])]
        for number in range(6):
            path.append(path[-1] - (path[-1] @ pair[number % 2]) * pair[number % 2])
        for number, (unit, dashes) in enumerate(zip(pair, ["--", ":"], strict=True), start=1):
            line = 3 * torch.stack([-unit[1], unit[0]])
            label = f"perpendicular to $S_{number}$"
            axes.plot([-line[0], line[0]], [-line[1], line[1]], linestyle=dashes, marker="", color=NEUTRAL, label=label)
        axes.plot(*torch.stack(path).T, color="black", linestyle="-", marker="o", label="one after another")
        axes.plot(0, 0, "X", color=LEFT, markersize=11, linestyle="", label="exact")
        axes.annotate("$A$", path[0] + 0.05)
        axes.set(xlim=(-0.5, 1.5), ylim=(-0.4, 1.25), aspect="equal", xlabel=r"$\theta_1$")
        axes.set_title(f"{degrees}° between the gradients, 3 sweeps")
    panels[0].set(ylabel=r"$\theta_2$")
    panels[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


def errors(curves: dict[str, list[float]]) -> None:
    """The distance from the exact result after each sweep."""
    _, axes = plt.subplots(figsize=(7, 3.6))
    for name, values in curves.items():
        axes.semilogy(range(1, len(values) + 1), values, label=name)
    axes.set(xlabel="sweeps", ylabel="distance from exact,\nin norms of $A$", title="what an approximation leaves in")
    axes.legend()
    plt.show()


def cost(times: dict[str, list[float]], batches: list[int]) -> None:
    """Time against the number of sequences, in weighted sums."""
    _, axes = plt.subplots(figsize=(7, 3.8))
    for name, values in times.items():
        axes.loglog(batches, values, label=name)
    axes.set(xlabel="sequences in a microbatch, B", ylabel="time, in weighted\nsums of gradients")
    axes.set_xticks(batches, batches)
    axes.set_yticks([1, 2, 5, 10, 20, 50, 100], [1, 2, 5, 10, 20, 50, 100])
    axes.minorticks_off()
    axes.legend()
    plt.show()


def advantages(of: dict[str, Tensor]) -> None:
    """Advantages before and after they are corrected, for each sequence."""
    _, axes = plt.subplots(figsize=(7.5, 3.4))
    grouped_bars(axes, of, [str(number) for number in range(len(next(iter(of.values()))))])
    axes.axhline(0, color="black", linewidth=0.8, linestyle="-", marker="")
    axes.set(xlabel="sequence of the microbatch", ylabel="advantage")
    axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.2))
    plt.show()
