"""The figures of lesson 4, *Inside the backward pass*."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from figures import SEQUENCE, look

LOOKS = {
    "plain accumulation": ("reinforce", 0),
    r"clamp $\beta = 0.5$": ("proma", 0),
    "no clamp": ("proma", 1),
    "exact, no clamp": ("proma", 2),
}


def gram_in_blocks(matrices: list[Tensor], sequences: int, tokens: int) -> None:
    """DD', XX', their product entry by entry, and its sum in each block."""
    figure, axes = plt.subplots(1, 4, figsize=(10, 3.1))
    titles = ["$DD^T$", r"$\circ\;\; XX^T$", r"$=\; (DD^T)\circ(XX^T)$", "summed in each block: $K$"]
    for panel, matrix, title in zip(axes, matrices, titles, strict=True):
        size, side = matrix.abs().max(), len(matrix) / sequences
        panel.imshow(matrix, vmin=-size, vmax=size, cmap="gray")
        panel.set_title(title, fontsize=11)
        panel.grid(False)
        middles = (torch.arange(sequences) + 0.5) * side - 0.5
        panel.set_xticks(middles, range(1, sequences + 1))
        panel.set_yticks(middles, range(1, sequences + 1))
        panel.tick_params(length=0)
        for edge in torch.arange(1, sequences) * side - 0.5:
            panel.axhline(edge, color=SEQUENCE, linewidth=1, linestyle="-", marker="")
            panel.axvline(edge, color=SEQUENCE, linewidth=1, linestyle="-", marker="")
        panel.set_xlabel("sequence")
    axes[0].set_ylabel("sequence")
    K = matrices[-1]
    for i, j in torch.cartesian_prod(torch.arange(sequences), torch.arange(sequences)).tolist():
        colour = "white" if K[i, j] < 0.3 * K.abs().max() else "black"
        axes[3].text(j, i, f"{K[i, j]:.1f}", ha="center", va="center", color=colour, fontsize=8)
    words = f"{sequences} sequences of {tokens} tokens; black is negative, mid-grey zero, white positive"
    figure.suptitle(words, fontsize=9)
    plt.show()


def tied(ways: dict[str, Tensor]) -> None:
    """The cosines of what is left with each sequence gradient, by the way of projecting."""
    _, axes = plt.subplots()
    for (title, values), marker in zip(ways.items(), "osD^", strict=True):
        axes.semilogy(range(1, len(values) + 1), values, linestyle="none", marker=marker, label=title, markersize=7)
    axes.set_xticks(range(1, len(values) + 1))
    axes.set(xlabel="sequence $i$", ylabel=r"$|\cos|$ of what is left with $S_i$")
    axes.set_title("The gradient of a tied weight, seen by each sequence")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


def removed(shares: dict[str, dict[str, float]], active: dict[str, float], shapes: dict[str, list[int]]) -> None:
    """What share of A is removed from each tensor, and in what share of the microbatches the clamp is active."""
    _, (left, right) = plt.subplots(1, 2, figsize=(10, 3), sharey=True)
    for title, of in shares.items():
        left.plot(of.values(), range(len(of)), **(look(*_named(title)) | {"linestyle": "none"}), markersize=8)
    left.set_yticks(range(len(shapes)), [f"{name} {shape}" for name, shape in shapes.items()])
    left.invert_yaxis()
    left.set(xlabel=r"removed, share of $\|A\|$", xlim=(0, 1))
    left.legend(fontsize=9, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    right.barh(range(len(active)), active.values(), 0.5, color="#bbbbbb", edgecolor="black")
    right.set(xlabel=r"share of microbatches with $\rho < 1$, at $\beta = 0.5$", xlim=(0, 1))
    plt.show()


def lengths(of: dict[str, Tensor], names: list[str]) -> None:
    """The length of A after each microbatch [microbatches, tensors], a panel for each tensor."""
    figure, axes = plt.subplots(2, 3, figsize=(10, 4.7), sharex=True, sharey=True)
    for number, (panel, name) in enumerate(zip(axes.T.flat, names, strict=True)):
        for title, values in of.items():
            panel.plot(range(1, len(values) + 1), values[:, number], **look(*_named(title)), markevery=8)
        panel.set_title(name, fontsize=10)
    for panel in axes[1]:
        panel.set_xlabel("microbatch")
    for panel in axes[:, 0]:
        panel.set_ylabel(r"$\|A\|$, plain = 1")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=9, ncols=4, loc="outside upper center")
    plt.show()


def _named(title: str) -> tuple[str, str, int]:
    method, variant = LOOKS[title]
    return method, title, variant
