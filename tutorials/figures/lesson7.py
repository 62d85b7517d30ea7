"""The figures of lesson 7, *Your own projection*."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from figures import LEFT, NEUTRAL, SEQUENCE, arrow


def all_at_once(problems: dict[str, tuple[Tensor, Tensor]]) -> None:
    """For each title a running gradient [2] and two sequence gradients [2, 2]: what is subtracted, and the result."""
    _, panels = plt.subplots(1, len(problems), figsize=(9.5, 4.4), sharey=True)
    for axes, (title, (A, S)) in zip(panels, problems.items(), strict=True):
        _draw(axes, A, S)
        axes.set_title(title)
    panels[0].set(ylabel=r"$\theta_2$")
    panels[0].legend(loc="lower left")
    plt.show()


def _draw(axes: Axes, A: Tensor, S: Tensor) -> None:
    where = A
    for number, (unit, order) in enumerate(zip(S / S.norm(dim=1, keepdim=True), ["first", "second"], strict=True), 1):
        arrow(axes, unit, f"$S_{number}$", colour=SEQUENCE, dashes="dotted", beyond=0.09)
        removed = -(A @ unit) * unit
        beyond = 0.09 - 0.6 * float(removed.norm())  # beside the middle of the arrow
        arrow(axes, removed, order, colour=NEUTRAL, dashes="dashdot", start=where, beyond=beyond)
        where = where + removed
    arrow(axes, A, "$A$", beyond=0.09)
    if where.norm() > 0.01:
        arrow(axes, where, "result", colour=LEFT, dashes="dashed", beyond=0.09)
    origin = torch.zeros(1)
    axes.plot(origin, origin, "X", color="black", markersize=9, linestyle="", label="what a projection leaves")
    axes.set(xlabel=r"$\theta_1$", aspect="equal", xlim=(-1.2, 1.2), ylim=(-0.9, 1.25))
