"""Draws docs/projection.svg: in ten seconds, what PROMA removes from the running gradient.

python -m docs.animation            write it
python -m docs.animation --check    fail where the file is another one

The scene is that of docs/web/projection.js: the sequence gradients lie on a floor, and the running gradient stands
above it. Every arrow is computed by `proma_bench.project`. The picture needs no script; where motion is not wanted, or
not shown, it is the last scene.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from proma_bench import project

TARGET = Path(__file__).with_name("projection.svg")
SECONDS = 10.0
FADE = 0.4  # seconds
SCALE, ORIGIN, DEPTH = 95.0, np.array([220.0, 268.0]), np.array([0.5, 0.32])
ADVANTAGES = (0.9, -0.5)
SCENES = (
    (0.0, "The running gradient A: what earlier microbatches left"),
    (2.0, "A new microbatch: two samples, with gradients S₁ and S₂"),
    (4.0, "What these samples see of A is its component along S₁ and S₂"),
    (6.0, "PROMA removes it, here in full: A′ is perpendicular to S₁ and S₂"),
    (8.0, "Then the microbatch's own gradient is added"),
)
STYLE = """
svg { font-family: system-ui, sans-serif } .name { font: italic 600 19px serif; text-anchor: middle }
.caption { font-size: 17px; text-anchor: middle; fill: #1a1a1a }
"""

Vector = npt.NDArray[np.float64]


def seen(point: Vector) -> Vector:
    """Where a point (x, y, z) is on the screen; y goes into the picture."""
    x, y, z = point
    return ORIGIN + SCALE * np.array([x + DEPTH[0] * y, -(z + DEPTH[1] * y)])


def arrow(name: str, start: Vector, end: Vector, colour: str, label: str, dashes: str = "none") -> str:
    """An arrow in a group of its own, with its name beyond the tip."""
    tail, tip = seen(start), seen(end)
    along = (tip - tail) / np.linalg.norm(tip - tail)
    across, neck = np.array([-along[1], along[0]]), tip - 13 * along
    head = " ".join(f"{x:.1f},{y:.1f}" for x, y in (tip, neck + 5.5 * across, neck - 5.5 * across))
    at = tip + 22 * along + (0, 6)
    return (
        f'<g class="{name}"><path d="M{tail[0]:.1f} {tail[1]:.1f}L{neck[0]:.1f} {neck[1]:.1f}" stroke="{colour}" '
        f'stroke-width="3.5" stroke-dasharray="{dashes}"/><polygon points="{head}" fill="{colour}"/>'
        f'<text class="name" x="{at[0]:.1f}" y="{at[1]:.1f}" fill="{colour}">{label}</text></g>'
    )


def shown(name: str, start: float, end: float = SECONDS) -> str:
    """CSS: the group is there from one second to another; without motion, if it is there at the end."""
    at = [0.0, start, start + FADE, end - FADE, end, SECONDS] if end < SECONDS else [0.0, start, start + FADE, SECONDS]
    opacity = [0, 0, 1, 1, 0, 0] if end < SECONDS else [0, 0, 1, 1]
    frames = " ".join(
        f"{100 * second / SECONDS:g}% {{ opacity: {value} }}" for second, value in zip(at, opacity, strict=True)
    )
    return _animated(name, f"opacity: {opacity[-1]}", frames)


def moved(name: str, by: Vector, start: float, end: float) -> str:
    """CSS: the group moves on the screen between two seconds, and stays there."""
    there = f"translate({by[0]:.1f}px, {by[1]:.1f}px)"
    frames = (
        f"0%, {100 * start / SECONDS:g}% {{ transform: none }} {100 * end / SECONDS:g}%, 100% {{ transform: {there} }}"
    )
    return _animated(name, f"transform: {there}", frames)


def _animated(name: str, at_rest: str, frames: str) -> str:
    return f".{name} {{ {at_rest}; animation: {name} {SECONDS:g}s infinite }} @keyframes {name} {{ {frames} }}"


def picture() -> str:
    """The animation, as SVG."""
    running = torch.tensor([1.3, 0.8, 1.5], dtype=torch.float64)
    gradients = torch.tensor([[1.5, -0.2, 0.0], [0.4, 1.5, 0.0]], dtype=torch.float64)
    left = project(running, gradients).numpy()
    nothing, old, (first, second) = np.zeros(3), running.numpy(), gradients.numpy()
    added = left + np.array(ADVANTAGES) @ gradients.numpy()
    floor = " ".join(
        f"{x:.1f},{y:.1f}"
        for x, y in (seen(np.array([*at, 0.0])) for at in ((-1.3, -0.9), (2.3, -0.9), (2.3, 2.1), (-1.3, 2.1)))
    )
    parts = [
        f'<polygon points="{floor}" fill="#e9eef4"/>',
        arrow("old", nothing, old, "#1a1a1a", "A"),
        arrow("ghost", nothing, old, "#b8b8b8", "A"),
        arrow("first", nothing, first, "#0072b2", "S₁"),
        arrow("second", nothing, second, "#0072b2", "S₂"),
        f'<g class="slide">{arrow("component", nothing, old - left, "#b84a00", "", "7 4")}</g>',
        arrow("left", nothing, left, "#00714f", "A′"),
        arrow("added", left, added, "#7a3e9d", "+ g"),
        *(f'<text class="caption scene{at}" x="320" y="366">{text}</text>' for at, (_, text) in enumerate(SCENES)),
    ]
    ends = [*(start for start, _ in SCENES[1:]), SECONDS]
    rules = [
        shown("old", 0.0, 7.0), shown("ghost", 6.6), shown("first", 2.0), shown("second", 2.3), shown("component", 4.0),
        moved("slide", seen(left) - seen(nothing), 6.0, 7.0), shown("left", 6.6), shown("added", 8.0),
        *(shown(f"scene{at}", start, end) for at, ((start, _), end) in enumerate(zip(SCENES, ends, strict=True))),
        "@media (prefers-reduced-motion: reduce) { * { animation: none !important } }",
    ]  # fmt: skip
    title = "What PROMA removes from the running gradient"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 385" role="img" aria-label="{title}" fill="none">',
        f"<title>{title}</title>", f"<style>{STYLE}{chr(10).join(rules)}</style>",
        '<rect width="640" height="385" rx="8" fill="#fff"/>', *parts, "</svg>\n",
    ])  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Write the picture, or compare it; the exit status."""
    drawn = picture()
    if "--check" not in arguments:
        TARGET.write_text(drawn)
    elif not TARGET.exists() or TARGET.read_text() != drawn:
        print(f"{TARGET.name} is not what `python -m docs.animation` draws")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
