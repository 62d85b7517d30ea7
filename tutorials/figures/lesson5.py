"""The figures of lesson 5, *A transformer that learns to add*."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch

from figures import NEUTRAL, grouped_bars, look

LOOKS = {
    "REINFORCE": ("reinforce", 0),
    "GRPO": ("grpo", 0),
    "PROMA": ("proma", 0),
    "PROMA, no clamp": ("proma", 1),
    "REINFORCE, 10 × the rate": ("reinforce", 3),
}


def gained_and_spent(curves: dict[str, tuple[Sequence[float], Sequence[float], Sequence[float]]]) -> None:
    """Right answers where they were measured, and entropy after each step, both from step 0 and from 0 up."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for name, (steps, gained, spent) in curves.items():
        style = _style(name)
        left.plot(steps, gained, **style)
        right.plot(range(len(spent)), spent, **style, markevery=6)
    left.set(xlabel="optimizer step", ylabel="right answers, sampled", title="what is gained")
    right.set(xlabel="optimizer step", ylabel="entropy (nats a token)", title="what is spent")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    plt.show()


def shares_of_answers(question: Any, counts: dict[str, collections.Counter[str]]) -> None:
    """How often each policy gives each answer to a question."""
    texts = [text for text, _ in sum(counts.values(), collections.Counter()).most_common(9)]
    shares = {name: [count[text] / count.total() for text in texts] for name, count in counts.items()}
    _, axes = plt.subplots()
    grouped_bars(axes, shares, [f"{text}\n(right)" if text == question.answer else text for text in texts])
    axes.set(xlabel=f"answer to {question.text}", ylabel=f"share of {max(c.total() for c in counts.values())} samples")
    axes.legend()
    plt.show()


def silence(points: dict[str, tuple[float, float]], group_size: int) -> None:
    """The share of silent groups against that of right answers, for each policy, and the line for equal questions."""
    rates = torch.linspace(0, 1, 101)
    _, axes = plt.subplots()
    line = rates**group_size + (1 - rates) ** group_size
    axes.plot(rates, line, "-", color=NEUTRAL, marker="", label="if all questions were equally hard")
    for name, point in points.items():
        axes.plot(*point, **(_style(name) | {"linestyle": "none"}), markersize=8)
    axes.set(xlabel="right answers", ylabel="share of silent groups")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


def _style(name: str) -> dict[str, Any]:
    if name not in LOOKS:
        return {"color": "black", "marker": "*", "label": name}
    method, variant = LOOKS[name]
    return look(method, name, variant)
