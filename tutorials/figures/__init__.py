"""The figures of the lessons, one module a lesson, so that a lesson's cells show ideas and no plotting.

One colour for each method in the whole course, that of the report; variants of a method differ in dashes and marker.
In pictures of arrows the colour says what an arrow is: the running gradient, a sequence gradient, or what is left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from proma_bench.learning.methods import method_named

plt.style.use(Path(__file__).parents[1] / "lessons.mplstyle")

RUNNING, SEQUENCE, LEFT, NEUTRAL = "black", "#882255", method_named("proma").style.colour, "0.45"
SHADES = [("", "0.75"), ("//", "#A8DCCB"), ("..", "white")]
_VARIANTS = [None, ((0, (5, 2)), "D"), ((0, (1, 1)), "v"), ((0, (6, 1, 1, 1)), "s")]


def look(method: str, label: str | None = None, variant: int = 0) -> dict[str, Any]:
    """How matplotlib draws a line of this method: its own look, or for a variant its colour with other dashes."""
    style = method_named(method).style
    dashes, marker = _VARIANTS[variant] or (style.dashes, style.marker)
    return {"color": style.colour, "linestyle": dashes, "marker": marker, "label": label or style.title}


def arrow(
    axes: Axes,
    vector: Tensor,
    label: str = "",
    *,
    colour: str = RUNNING,
    dashes: str = "solid",
    start: Any = (0.0, 0.0),
    beyond: float = 0.22,
) -> None:
    """An arrow in the plane from `start`, with its name `beyond` the tip (or before it, if that is negative)."""
    x, y = float(start[0]), float(start[1])
    tip = x + float(vector[0]), y + float(vector[1])
    style = {"arrowstyle": "-|>", "color": colour, "linestyle": dashes, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", tip, (x, y), arrowprops=style)
    away = beyond * vector / vector.norm()
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
    place = tip[0] + float(away[0]), tip[1] + float(away[1])
    axes.annotate(label, place, color=colour, ha="center", va="center", bbox=box)


def grouped_bars(axes: Axes, groups: dict[str, Any], names: list[str]) -> None:
    """Up to three bars side by side for each name, told apart by shade and hatching."""
    for number, ((label, values), (hatch, shade)) in enumerate(zip(groups.items(), SHADES, strict=False)):
        places = [place + 0.27 * (number - (len(groups) - 1) / 2) for place in range(len(names))]
        axes.bar(places, values, 0.26, label=label, hatch=hatch, color=shade, edgecolor="black")
    axes.set_xticks(range(len(names)), names)


def grid(reach: float = 2.0, points: int = 161) -> Tensor:
    """Steps on a square grid, [points, points, 2]."""
    line = torch.linspace(-reach, reach, points)
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)


def panels(count: int) -> list[Axes]:
    """Squares beside each other."""
    _, found = plt.subplots(1, count, figsize=(3.3 * count, 3.6), sharey=True, squeeze=False)
    return list(found[0])


def show(axes: list[Axes]) -> None:
    """The panels, with the labels of the axes outside only."""
    for one in axes:
        one.label_outer()
    plt.show()
