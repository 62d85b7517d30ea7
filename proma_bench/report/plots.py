"""The figures of a tier: learning curves, the frontier, and scores against local KL.

Methods differ in colour, dashes and markers; see `proma_bench.learning.methods`.
"""

from __future__ import annotations

import collections
import io
import math
import re
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proma_bench.learning.methods import METHODS, Style, all_methods
from proma_bench.learning.metrics import METRICS
from proma_bench.report.curves import curves_of, last_measured
from proma_bench.report.frontier import common_levels, frontiers
from proma_bench.report.paired import Comparable
from proma_bench.report.statistics import CONFIDENCE, Array, Cell, interval, method_order
from proma_bench.runs.criteria import SCORES, Criteria
from proma_bench.runs.directory import Run
from proma_bench.runs.matching import mean_local_kl

BESIDE_SCORE = ("entropy", "kl_local", "kl_global")
ALONG_SCORE = ("kl_local", "kl_global", "entropy")
POINTS = 40  # of a curve along the score
MARK = b"proma_bench"  # in a PNG's metadata


def style_of(method: str) -> Style:
    """The method's style; unknown ones are black, and those in a file have its name without its folder."""
    known = all_methods().get(method)
    return Style(plain(method.rpartition("/")[2]), "black", "dashdot", "x") if known is None else known.style


def plain(text: str) -> str:
    """The text as matplotlib should draw it: no formulas, and no characters that its font lacks."""
    return text.encode("ascii", "backslashreplace").decode().replace("\n", " ").replace("$", r"\$")[:80]


# ----------------------------------------------------------------------------------------------------- figures


def learning_curves(title: str, cells: Sequence[Cell], score: str) -> Figure:
    """Score, entropy, local and global KL against the optimizer step: means over seeds with intervals.

    Only steps count at which all seeds were measured.
    """
    cells = [cell for cell in cells if cell.runs]
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    for axes, metric in zip(figure.subplots(2, 2).flat, (score, *BESIDE_SCORE), strict=True):
        for cell in cells:
            values = cell.series(metric)
            measured = ~np.isnan(values).any(axis=0)
            steps = np.arange(1.0, values.shape[1] + 1)[measured]
            if measured.any():
                _draw(axes, steps, values[:, measured], style_of(cell.method), _label(cell, cells))
        axes.set(xlabel="optimizer step", ylabel=METRICS[metric].label)
    seeds = sorted({len(cell.runs) for cell in cells} or {0})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    _finish(figure, f"{plain(title)}: mean over {count} seeds, shaded {CONFIDENCE:.0%} t-intervals")
    return figure


def along_score(found: Comparable, rates: Sequence[float], criteria: Criteria) -> Figure | None:
    """Local KL, global KL and entropy against the score: each method's frontier, and thinly each learning rate.

    None when no method has a seed with all the learning rates, or no two scores that all its seeds reach.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = list(zip(figure.subplots(1, 3).flat, ALONG_SCORE, strict=True))
    for method in sorted({method for method, _, _ in found.runs}, key=method_order):
        style = style_of(method)
        for axes, metric in panels:
            scores, values = _frontier(found, method, rates, metric, criteria)
            if len(scores):
                _draw(axes, scores, values, style, style.title)
            for rate in rates if len(rates) > 1 else []:
                scores, values = _frontier(found, method, [rate], metric, criteria)
                axes.plot(scores, values.mean(axis=0), color=style.colour, linewidth=0.7, alpha=0.5)
    for axes, metric in panels:
        axes.set(xlabel=METRICS[criteria.score].label, ylabel=METRICS[metric].label)
        if not METRICS[metric].higher_is_better and all((line.get_ydata() > 0).all() for line in axes.lines):
            axes.set_yscale("log")
    if not figure.axes[0].get_legend_handles_labels()[1]:
        return None
    sweep = ", ".join(f"{rate:g}" for rate in rates)
    _finish(figure, f"{plain(found.title)}, at equal score: frontier over learning rates {sweep} (thin: each of them)")
    return figure


def score_by_kl(found: Comparable, rates: Sequence[float]) -> Figure | None:
    """The final scores against the mean local KL, each method a line through the learning rates of a sweep.

    A method cannot move along its line to a better place by another learning rate, and what is higher has learned more
    from the same change of the policy. None without a finished run at two of the rates.
    """
    by_setting = collections.defaultdict[tuple[str, float], list[Run]](list)
    for (method, rate, _), run in found.runs.items():
        if rate in rates:
            by_setting[method, rate].append(run)
    if len({rate for _, rate in by_setting}) < 2:
        return None
    finals = {at: [last_measured(curves_of([[run] for run in runs])[name]).mean() for name in SCORES]
              for at, runs in by_setting.items()}  # fmt: skip
    measured = [place for place, _ in enumerate(SCORES) if any(not np.isnan(final[place]) for final in finals.values())]
    if not measured:
        return None
    figure = Figure(figsize=(8.5, 4.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(measured)))
    for method in sorted({method for method, _ in by_setting}, key=method_order):
        style = style_of(method)
        mine = [(method, rate) for rate in rates if (method, rate) in by_setting]
        kl = np.array([mean_local_kl(by_setting[at]) for at in mine])
        for axes, place in zip(panels, measured, strict=True):
            axes.plot(kl, [finals[at][place] for at in mine], color=style.colour, linestyle=style.dashes,
                      marker=style.marker, markersize=5, linewidth=2 if method in METHODS else 1,
                      label=style.title)  # fmt: skip
    for axes, place in zip(panels, measured, strict=True):
        axes.set(xlabel="mean local KL of a step (nats)", ylabel=f"{METRICS[SCORES[place]].label}, at the end")
        if all((line.get_xdata() > 0).all() for line in axes.lines):
            axes.set_xscale("log")
    _finish(figure, f"{plain(found.title)}: what is learned from the same change of the policy, by learning rate")
    return figure


# ----------------------------------------------------------------------------------------------- their bytes


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": MARK.decode()})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as SVG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "proma_bench"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def file_name(title: str) -> str:
    """The tier's name as the name of a file, whatever is in it."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", title).strip("-") or "tier"


# ---------------------------------------------------------------------------------------------------- drawing


def _draw(axes: Axes, x: Array, values: Array, style: Style, label: str) -> None:
    """A curve of means over the first axis of ``values`` [seeds, points], with its interval."""
    mean, low, high = interval(values)
    axes.plot(x, mean, color=style.colour, linestyle=style.dashes, marker=style.marker, markersize=4,
              markevery=max(1, len(x) // 8), label=label)  # fmt: skip
    axes.fill_between(x, low, high, color=style.colour, alpha=0.2, linewidth=0)


def _finish(figure: Figure, title: str) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.25)
    figure.suptitle(title, fontsize=11)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    names, height = [textwrap.fill(label, 40) for label in labels], figure.get_figheight()
    for columns in range(min(4, len(names)), 0, -1):  # as many as there is room for
        lines = math.ceil(len(names) / columns) * max(name.count("\n") + 1 for name in names)
        figure.set_figheight(height + 0.2 * max(0, lines - 2))
        legend = figure.legend(handles, names, loc="outside lower center", ncols=columns, handlelength=4)
        figure.draw_without_rendering()
        if columns == 1 or legend.get_window_extent().width < figure.bbox.width:
            break
        legend.remove()


def _label(cell: Cell, cells: Sequence[Cell]) -> str:
    """The method's name, with the learning rate where a method has several."""
    name = style_of(cell.method).title
    several = sum(other.method == cell.method for other in cells) > 1
    return f"{name}, lr {cell.learning_rate:g}" if several else name


def _frontier(
    found: Comparable, method: str, rates: Sequence[float], metric: str, criteria: Criteria
) -> tuple[Array, Array]:
    """A method's frontier: scores [points] that all its seeds reach, and the metric there [seeds, points].

    Seeds without one of the learning rates do not count.
    """
    seeds = sorted({seed for name, _, seed in found.runs if name == method})
    complete = [seed for seed in seeds if rates and all((method, rate, seed) in found.runs for rate in rates)]
    if not complete:
        return np.empty(0), np.empty((1, 0))
    curves = curves_of([found.select(method, rates, seed) for seed in complete])
    of_seeds = frontiers(curves, criteria.score, metric, criteria)
    scores = common_levels(of_seeds, POINTS)
    values = np.stack([frontier.at(scores)[0] for frontier in of_seeds])
    measured = ~np.isnan(values).any(axis=0)  # between the ranges of two learning rates there may be a gap
    return scores[measured], values[:, measured]
