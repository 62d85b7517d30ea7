"""Draws the pictures of the cheat sheet: the same two gradients for every method.

python -m docs.cheat_sheet    write docs/cheat-*.png

`OLD` is what is there already: the running gradient, or the gradient of an earlier task. `new` is the gradient that
arrives, which conflicts with the old one in the first picture of each pair and agrees with it in the second. What a
method makes of the two is computed by its definition, by this project's functions where there are any.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from proma_bench import ProjectionConfig, accumulate
from proma_bench.projection.rules.isopo import Isopo
from proma_bench.projection.rules.pcgrad import PCGrad

HOME = Path(__file__).parent
OLD = torch.tensor([0.35, 1.3], dtype=torch.float64)
NEW = {
    "they conflict": torch.tensor([0.95, -0.65], dtype=torch.float64),
    "they agree": torch.tensor([1.0, 0.45], dtype=torch.float64),
}
BUDGET = 0.5
"""Of TRPO's picture: half of the squared norm of a step, as the Fisher matrix measures it."""
BAND = 0.6
"""Of PPO's picture: how far the log-prob of the new sample may move before its gradient is cut off."""


def plain(new: Tensor) -> Tensor:
    """Accumulation: both are added."""
    return OLD + new


def proma(new: Tensor) -> Tensor:
    """PROMA with the exact projection and no clamp: the old loses its part along the new."""
    config = ProjectionConfig(method="exact", max_removed=None)
    return accumulate(OLD, new.unsqueeze(0), torch.ones(1, dtype=torch.float64), config)


def clamped(new: Tensor) -> Tensor:
    """PROMA as in the paper's run: at most half the norm of the new is removed."""
    return accumulate(OLD, new.unsqueeze(0), torch.ones(1, dtype=torch.float64), ProjectionConfig())


def pcgrad(new: Tensor) -> Tensor:
    """PCGrad: where they conflict, each loses its part along the other; both are added."""
    both = torch.stack([OLD, new])
    return PCGrad()(both @ both.T, torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)) @ both


def ogd(new: Tensor) -> Tensor:
    """OGD: the new one loses its part along the old, whatever its sign; the old task is protected, and not added."""
    return new - (new @ OLD) / (OLD @ OLD) * OLD


def gem(new: Tensor) -> Tensor:
    """GEM: the new one loses its part along the old only where they conflict."""
    return ogd(new) if new @ OLD < 0 else new


def isopo(new: Tensor) -> Tensor:
    """ISOPO: both are added, damped where gradients are long and alike."""
    both = torch.stack([OLD, new])
    return Isopo()(both @ both.T, torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)) @ both


def fisher(new: Tensor) -> Tensor:
    """The matrix of TRPO's picture: the mean of both gradients' outer products."""
    both = torch.stack([OLD, new])
    return both.T @ both / 2


def trpo(new: Tensor) -> Tensor:
    """TRPO: the best step for the sum of both within the ellipse of a given KL."""
    direction = torch.linalg.solve(fisher(new), OLD + new)
    return direction * (2 * BUDGET / (direction @ fisher(new) @ direction)).sqrt()


def ppo(new: Tensor) -> Tensor:
    """PPO and GRPO: along the sum of both, until the new sample's log-prob leaves the band; then along the old alone.

    The old sample's own band is left out of the picture.
    """
    total = OLD + new
    reached = min(1.0, BAND / float(total @ new)) if total @ new > 0 else 1.0
    return reached * total + (1 - reached) * OLD


METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": plain, "proma": proma, "clamped": clamped, "ppo": ppo, "trpo": trpo, "isopo": isopo,
    "pcgrad": pcgrad, "ogd": ogd, "gem": gem,
}  # fmt: skip


def draw(name: str, path: Path) -> None:
    """Both pictures of a method."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(5.6, 2.5), dpi=90, sharey=True, layout="constrained")
    for axes, (title, new) in zip(panels, NEW.items(), strict=True):
        _limit(axes, name, new)
        for vector, label, colour, dashes in (
            (OLD, "old", "black", "solid"),
            (new, "new", "#882255", "dotted"),
            (METHODS[name](new), "step", "#009E73", "dashed"),
        ):
            style = {"arrowstyle": "-|>", "color": colour, "linestyle": dashes, "linewidth": 2}
            axes.annotate("", vector.tolist(), (0, 0), arrowprops=style | {"shrinkA": 0, "shrinkB": 0})
            beside = torch.tensor([0.0, 0.14]) if label == "step" else 0.0  # where it ends at the tip of another arrow
            place = (vector + 0.17 * vector / vector.norm() + beside).tolist()
            axes.annotate(label, place, color=colour, ha="center", va="center", fontsize=9)
        axes.set(xlim=(-0.9, 2.3), ylim=(-0.95, 1.95), aspect="equal", xticks=[], yticks=[])
        axes.set_title(title, fontsize=9)
        axes.spines[:].set_color("0.8")
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _limit(axes, name: str, new: Tensor) -> None:  # type: ignore[no-untyped-def]
    """What limits the step: TRPO's ellipse, PPO's band."""
    if name == "trpo":
        around = torch.linspace(0, 2 * torch.pi, 100, dtype=torch.float64)
        values, vectors = torch.linalg.eigh(fisher(new))
        circle = torch.stack([around.cos(), around.sin()]) * (2 * BUDGET / values).sqrt()[:, None]
        axes.fill(*(vectors @ circle), color="0.9")
    if name == "ppo":
        across = 3 * torch.stack([-new[1], new[0]]) / new.norm()
        edge = BAND * new / (new @ new)
        corners = torch.stack([edge + across, edge - across, -edge - across, -edge + across])
        axes.fill(*corners.T, color="0.9")


if __name__ == "__main__":
    for method in METHODS:
        draw(method, HOME / f"cheat-{method}.png")
