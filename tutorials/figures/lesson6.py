"""The figures of lesson 6, *Qwen3-0.6B on GSM8K*."""

from __future__ import annotations

import matplotlib.pyplot as plt


def memory(needed: dict[str, float], avoided: dict[str, float]) -> None:
    """GiB of what is held at once, and of what would be held without care."""
    both = {**needed, **avoided}
    _, axes = plt.subplots()
    bars = axes.barh(range(len(both)), both.values(), 0.6, color="#555555", edgecolor="black")
    for bar, (name, size) in zip(bars, both.items(), strict=True):
        if name in avoided:
            bar.set(facecolor="white", hatch="//")
        axes.text(bar.get_width() + 0.2, bar.get_y() + 0.3, f"{size:.1f}", va="center")
    axes.set_yticks(range(len(both)), both)
    axes.invert_yaxis()
    axes.set_xlabel("GiB (activations come on top)")
    axes.set_title("Needed (grey), and what would be needed without care (hatched)", fontsize=10)
    plt.show()
