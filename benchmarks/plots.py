"""The plots of the benchmark page. Colours, markers and dashes all tell the methods apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

# Okabe and Ito's palette keeps apart for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
MARKERS = "osD^vPX*"
DASHES = (
    "solid",
    (0, (4, 1.5)),
    (0, (1, 1)),
    "dashdot",
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (8, 2)),
    (0, (2, 3)),
    (0, (6, 4)),
)

TICKS = (0.25, 0.33, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 7, 10, 14, 20, 30, 40)

Info = dict[str, Any]
METHODS_SHOWN = (
    "QR of the stack",
    "iterative, literal loop",
    "ridge, B dimensions",
    "exact, B dimensions",
    "iterative, B dimensions",
    "plain accumulation",
)


def plot_cost(info: Info, label: str, path: Path) -> None:
    """Seconds of each method against the number of sequences, or the size of the weight."""
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    sizes = [point[info["axis"]] for point in info["points"]]
    for number, name in enumerate(METHODS_SHOWN):
        times = [point["contenders"][name] for point in info["points"]]
        milliseconds = [1e3 * time["seconds"] for time in times]
        legend = f"{name} (exponent {info['exponents'][name]:.2f})"
        axes.plot(sizes, milliseconds, label=legend, markersize=5, **_style(number))
    _log_axes(axes, sizes)
    axes.set(xlabel=label, ylabel="milliseconds")
    axes.legend(fontsize=8)
    _save(figure, path)


def plot_error_against_sweeps(infos: Sequence[Info], path: Path) -> None:
    """The error of the iterative method, one panel a degree of resemblance between the gradients."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(infos), sharey=True, squeeze=False)[0]
    for axes, info in zip(panels, infos, strict=True):
        curves = [(count, dtype, errors) for count, by in info["curves"].items() for dtype, errors in by.items()]
        for number, (count, dtype, errors) in enumerate(curves):
            axes.plot(info["sweeps"], errors, label=f"B = {count}, {dtype}", markersize=4, **_style(number))
        _log_axes(axes, info["sweeps"])
        axes.set(xlabel="sweeps", title=f"{info['shared']:.0%} of the variance shared")
        axes.title.set_fontsize(9)
    panels[0].set_ylabel("error, relative to what is removed")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, handlelength=3.5)
    _save(figure, path)


def plot_error_against_cost(info: Info, path: Path) -> None:
    """Exact or approximate, literal or in B dimensions: each method's error over its cost, one point a number B."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    names = [name for name in METHODS_SHOWN if name in info["points"][0]["errors"]]
    for number, name in enumerate(names):
        ratios = [point["contenders"][name]["ratio"] for point in info["points"]]
        errors = [point["errors"][name] for point in info["points"]]
        axes.plot(ratios, errors, label=name, markersize=5, **_style(number))
    axes.set(xscale="log", yscale="log", ylabel="error, relative to what is removed")
    axes.set_xlabel("cost, in times of plain accumulation (a curve: B from smallest to largest)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    _save(figure, path)


def plot_overhead(rows: Mapping[str, Mapping[str, Any]], baseline: str, path: Path) -> None:
    """Ratios to the baseline with their quartiles: one line a case, one marker a contender."""
    names = [name for name in dict.fromkeys(name for row in rows.values() for name in row) if name != baseline]
    figure = Figure(figsize=(8, 1.3 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = {case: -number for number, case in enumerate(rows)}
    for number, name in enumerate(names):
        shown = [(case, row[name]) for case, row in rows.items() if name in row]
        offset = 0.3 * (0.5 - (number + 0.5) / len(names))
        ratios = [entry["ratio"] for _, entry in shown]
        errors = [
            [max(0.0, entry["ratio"] - entry["ratio_q1"]) for _, entry in shown],
            [max(0.0, entry["ratio_q3"] - entry["ratio"]) for _, entry in shown],
        ]
        heights = [places[case] + offset for case, _ in shown]
        style = {"color": _pick(COLOURS, number), "marker": _pick(MARKERS, number)}
        axes.errorbar(ratios, heights, xerr=errors, label=name, linestyle="none", markersize=5, **style)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = TICKS if high / low < 6 else TICKS[::2]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlim(low, high)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(list(places.values()), list(places), fontsize=8)
    axes.set_xlabel(f"time, in times of {baseline}")
    axes.grid(alpha=0.25, axis="x")
    figure.legend(loc="outside lower center", ncols=min(3, len(names)), fontsize=8)
    _save(figure, path)


def plot_memory(infos: Sequence[Info], path: Path) -> None:
    """Peak memory over plain autograd, with the workspace's limit."""
    names = list(dict.fromkeys(name for info in infos for name in info["extra"]))
    figure = Figure(figsize=(8, 1.3 + 0.36 * len(infos)), layout="constrained")
    axes = figure.subplots()
    places = {info["case"].removeprefix("memory: "): -number for number, info in enumerate(infos)}
    for number, name in enumerate(names):
        offset = 0.3 * (0.5 - (number + 0.5) / len(names))
        shown = [
            (height + offset, info["extra"][name])
            for height, info in zip(places.values(), infos, strict=True)
            if name in info["extra"]
        ]
        style = {"color": _pick(COLOURS, number), "marker": _pick(MARKERS, number)}
        axes.plot(
            [extra / 2**20 for _, extra in shown],
            [height for height, _ in shown],
            label=name,
            linestyle="none",
            **style,
        )
    axes.axvline(infos[0]["workspace_bytes"] / 2**20, color="black", linestyle="--", label="limit of the workspace")
    axes.set_yticks(list(places.values()), list(places), fontsize=8)
    axes.set_xlabel("peak memory over plain autograd (MiB)")
    axes.grid(alpha=0.25, axis="x")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    _save(figure, path)


def _style(number: int) -> dict[str, Any]:
    return {
        "color": _pick(COLOURS, number),
        "marker": _pick(MARKERS, number),
        "linestyle": DASHES[number % len(DASHES)],
    }


def _pick(choices: Sequence[str], number: int) -> str:
    return choices[number % len(choices)]


def _log_axes(axes: Axes, ticks: Sequence[int]) -> None:
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(ticks, [_short(tick) for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)


def _short(count: int) -> str:
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= 10 * size or (count >= size and count % size == 0):
            return f"{count / size:.3g}{unit}"
    return str(count)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
