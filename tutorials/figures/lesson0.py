"""The figures of lesson 0, *Where to push a policy*."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from figures import LEFT, NEUTRAL, RUNNING, SEQUENCE, arrow, grid, look, panels, show
from proma_bench import project

__all__ = ["along_and_across", "grid", "in_space", "panels", "projection", "removal", "show", "two_runs"]
LEVELS = [0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6]


def two_runs(runs: dict[str, Tensor]) -> None:
    """The probability of the best arm and the entropy [steps + 1, 2] of a run of each method, from step 0 on."""
    _, both = plt.subplots(1, 2, figsize=(9, 3.4))
    for method, history in runs.items():
        for axes, values in zip(both, history.T, strict=True):
            axes.plot(range(len(values)), values, **look(method))
    both[0].set(xlabel="optimizer step", ylabel="probability of the best arm", ylim=(-0.05, 1.05))
    both[1].set(xlabel="optimizer step", ylabel="entropy (nats)")
    both[0].legend(loc="center right")
    plt.show()


def valley(kl: Tensor, title: str) -> Axes:
    """The KL divergence of each step of the grid, as shades of grey; arrows are drawn on top."""
    _, axes = plt.subplots(figsize=(4.6, 4.2))
    _shade(axes, kl)
    axes.set_title(title)
    return axes


def along_and_across(kl: Tensor, along: Tensor, across: Tensor) -> None:
    """A step along S and one across, over the valley."""
    axes = valley(kl, "KL in one context, for every step")
    arrow(axes, along, "along $S$", colour=SEQUENCE, dashes="dotted", beyond=0.5)
    arrow(axes, across, "across: free", colour=LEFT, dashes="dashed")
    plt.show()


def removal(kl: Tensor, A: Tensor, left: Tensor) -> None:
    """A, what is removed from it, and what is left."""
    axes = valley(kl, "the running gradient, moved to the valley's floor")
    arrow(axes, A, "$A$")
    arrow(axes, left, "$A - P_SA$", colour=LEFT, dashes="dashed", beyond=0.3)
    arrow(axes, left - A, "$-P_SA$", colour=SEQUENCE, dashes="dotted", start=A, beyond=-0.62)
    plt.show()


def projection(axes: Axes, A: Tensor, gradients: Tensor, kl: Tensor) -> Tensor:
    """A, the directions of the sequence gradients [B, 2], and what is left of A, over the mean KL of each step."""
    _shade(axes, kl)
    for number, gradient in enumerate(gradients, start=1):
        arrow(axes, 1.2 * gradient / gradient.norm(), f"$S_{number}$", colour=SEQUENCE, dashes="dotted")
    arrow(axes, A, "$A$")
    left = project(A, gradients) if len(gradients) else A
    if left.norm() > 0.01:
        arrow(axes, left, "left", colour=LEFT, dashes="dashed", beyond=-0.3)
    else:
        axes.plot(0, 0, "X", color=LEFT, markersize=11)
        axes.annotate("nothing left", (0, -0.35), color=LEFT, ha="center")
    return left


def in_space(S: Tensor, A: Tensor, left: Tensor) -> None:
    """Two sequence gradients [2, 3], their plane, A and what is left of it."""
    axes = plt.figure(figsize=(5.6, 5)).add_subplot(projection="3d")
    corners = torch.tensor([[-0.2, -0.2], [1.2, -0.2], [1.2, 1.2], [-0.2, 1.2]]) @ S
    axes.plot_trisurf(*corners.T.numpy(), triangles=[[0, 1, 2], [0, 2, 3]], color="0.85", alpha=0.6)
    arrows = [(S[0], "$S_1$", SEQUENCE, "dotted"), (S[1], "$S_2$", SEQUENCE, "dotted")]
    arrows += [(A, "$A$", RUNNING, "solid"), (left, "left", LEFT, "dashed")]
    for vector, label, colour, dashes in arrows:
        axes.quiver(0, 0, 0, *vector, color=colour, linestyle=dashes, linewidth=2.5, arrow_length_ratio=0.1)
        axes.text(*(1.12 * vector), label, color=colour, fontsize=12)
    axes.plot(*torch.stack([A, left]).T.numpy(), color=NEUTRAL, linestyle=":", marker="")
    ticks = [0, 0.5, 1]
    axes.set(xlabel=r"$\theta_1$", ylabel=r"$\theta_2$", zlabel=r"$\theta_3$", xticks=ticks, yticks=ticks, zticks=ticks)
    axes.view_init(elev=32, azim=-68)
    axes.set_box_aspect((1, 1, 0.9), zoom=0.85)
    axes.set_title("two samples, three parameters")
    plt.show()


def _shade(axes: Axes, kl: Tensor) -> None:
    at = grid()
    axes.contourf(at[..., 0], at[..., 1], kl, LEVELS, cmap="Greys", vmin=0, vmax=0.9, alpha=0.8, extend="max")
    axes.set(
        xlabel=r"step along $\theta_1$", ylabel=r"step along $\theta_2$", aspect="equal", xlim=(-2, 2), ylim=(-2, 2)
    )
    axes.grid(False)
