"""Heat maps of what was recorded for each parameter tensor, over training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proma_bench.report.plots import plain
from proma_bench.report.statistics import Array
from proma_bench.runs.directory import Run

REMOVED = {"removed_by_layer": "share of the running gradient's norm that PROMA removed"}
"""What a run of PROMA records."""
OBSERVED = {
    "effective_rank_by_layer": "effective rank of the Gram matrix",
    "conflicts_by_layer": "share of pairs of sequences in conflict",
    "noise_scale_by_layer": "gradient noise scale (sequences), capped at the 90 % quantile",
}
"""What a run of `observe` records."""
UNLIMITED = "noise_scale_by_layer"
"""Not recorded where the signal is lost in the noise, which is a noise scale without limit."""
MOST_NAMES = 400  # of layers, written beside the figure
CAP = 0.9  # of the colours: where the signal nearly vanishes, the noise scale has no limit


def by_layer(title: str, runs: Sequence[Run], metrics: Mapping[str, str]) -> Figure | None:
    """One map for each metric: layer by optimizer step, the median of seeds.

    Args:
        title: of the tier.
        runs: of one method and learning rate.
        metrics: in words, by name.

    Returns:
        The figure; None when no run has recorded any of them.
    """
    recorded = {words: found for name, words in metrics.items() if (found := _averaged(runs, name)) is not None}
    if not recorded:
        return None
    layers = max(len(names) for names, _ in recorded.values())
    height = min(12, 1.6 + 0.28 * layers) * len(recorded)
    figure = Figure(figsize=(9, min(30, height)), layout="constrained")
    for axes, (words, (names, values)) in zip(
        np.atleast_1d(figure.subplots(len(recorded))), recorded.items(), strict=True
    ):
        _draw(axes, names, values, CAP if words == metrics.get(UNLIMITED) else 1.0)
        axes.set_title(f"{plain(title)}: {words}, median of {len(runs)} seeds", fontsize=10)
    return figure


def _averaged(runs: Sequence[Run], metric: str) -> tuple[list[str], Array] | None:
    """The layers, and the median over the seeds that have the metric [layers, steps]."""
    recorded = [[step.get(metric) or {} for step in run.metrics] for run in runs]
    layers = sorted({name for run in recorded for step in run for name in step}, key=_natural)
    if not layers:
        return None
    steps = min(map(len, recorded))
    values = np.array(
        [[[step.get(layer) for step in run[:steps]] for layer in layers] for run in recorded], dtype=float
    )  # [seeds, layers, steps]
    if metric == UNLIMITED:
        values = np.where(np.isnan(values), np.inf, values)
    median = np.ma.filled(np.ma.median(np.ma.masked_where(np.isnan(values), values), axis=0), np.nan)
    return layers, np.where(np.isfinite(median), median, np.nan)


def _draw(axes: Axes, layers: Sequence[str], values: Array, cap: float) -> None:
    steps, finite = values.shape[1], values[~np.isnan(values)]
    highest = float(np.quantile(finite, cap)) if len(finite) else None
    image = axes.imshow(values, aspect="auto", interpolation="nearest", cmap="cividis", vmin=0, vmax=highest,
                        extent=(0.5, steps + 0.5, len(layers), 0))  # fmt: skip
    every = -(-len(layers) // MOST_NAMES)
    names = [plain(layer) for layer in layers[::every]]
    axes.set_yticks(np.arange(0, len(layers), every) + 0.5, names, fontsize=8 if len(layers) < 40 else 4)
    axes.set(xlabel="optimizer step")
    axes.figure.colorbar(image, ax=axes)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer 10 after layer 2."""
    return [
        (int(part), "") if part.isascii() and part.isdecimal() else (-1, part)
        for part in re.split(r"([0-9]{1,9})", name)
    ]
