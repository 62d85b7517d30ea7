"""The closing table: methods by metrics, with intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich.table import Table

from proma_bench import console
from proma_bench.learning.config import RunConfig
from proma_bench.learning.metrics import METRICS, Column, Metric
from proma_bench.report.markdown import markdown_table
from proma_bench.report.statistics import CONFIDENCE, LEAST_SEEDS, Array, Cell, interval


class Grid(NamedTuple):
    """A table: a heading for each column, and rows whose cells may have several lines."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def _figures(metric: Metric, column: Column, cell: Cell) -> Array:
    """The column's figure of each run of a cell [seeds]."""
    series = cell.series(metric.name)
    if not cell.runs:
        return np.empty(0)
    return series[:, -1] if column.over_steps == "end" else series.mean(axis=1)


def _columns(cells: Iterable[Cell]) -> list[tuple[Metric, Column]]:
    """What samples score is told once: on validation data where that is measured, else in training."""
    columns = {name: (metric, metric.column) for name, metric in METRICS.items() if metric.column is not None}
    sampled = columns["score_sampled"]
    is_measured = all(bool((~np.isnan(_figures(*sampled, cell))).all()) for cell in cells if cell.runs)
    left_out = "reward" if is_measured else "score_sampled"
    return [column for name, column in columns.items() if name != left_out]


def summary_table(title: str, cells: Sequence[Cell]) -> Table:
    """One row per cell of runs (all on one tier), one figure per column: mean over seeds [interval]."""
    lengths = sorted({cell.series("step").shape[1] for cell in cells if cell.runs} or {0})
    steps = " to ".join(str(length) for length in {lengths[0]: None, lengths[-1]: None})
    heading = f"{title}, {steps} steps: mean over seeds [{CONFIDENCE:.0%} t-interval, from {LEAST_SEEDS} seeds on]"
    names = [f"{cell.method}\nlr {cell.learning_rate:g}, {cell.seeds}" for cell in cells]
    return _table(heading, "method", dict(zip(names, cells, strict=True)), lines=True)


def ablation_table(config: RunConfig, cells: Mapping[str, Cell], seeds: int) -> Table:
    """One row per variant, by its name."""
    title = f"{config.title}, {config.steps} steps, lr {config.learning_rate:g}: mean over {seeds} seeds"
    title += f" [{CONFIDENCE:.0%} t-interval]" if seeds >= LEAST_SEEDS else ""
    return _table(title, "variant", cells)


def _table(title: str, first: str, cells: Mapping[str, Cell], *, lines: bool = False) -> Table:
    columns = _columns(cells.values())
    headings = [first, *(column.heading for _, column in columns)]
    names = {name: f"{name} ({cell.seeds})" if cell.diverged else name for name, cell in cells.items()}
    rows = [[names[name], *(_shown(*column, cell) for column in columns)] for name, cell in cells.items()]
    return console.table(title, headings, rows, lines=lines)


def markdown(table: Table) -> str:
    """The table as Markdown, its title above it."""
    title, headings, rows = as_grid(table)
    return f"{title}\n\n{markdown_table(headings, rows)}"


def as_grid(table: Table) -> Grid:
    """The table's text, for a page."""
    columns = [list(map(str, column.cells)) for column in table.columns]
    headings = [str(column.header) for column in table.columns]
    return Grid(str(table.title), headings, list(map(list, zip(*columns, strict=True))))


def _shown(metric: Metric, column: Column, cell: Cell) -> str:
    values = _figures(metric, column, cell)
    if not len(values):
        return "diverged"
    if np.isnan(values).any():  # not measured, as the clamp of a method that has none
        return "-"
    mean, low, high = interval(values)
    digits = _digits(column, float(mean))
    text = f"{mean:.{digits}f}"
    return text if len(values) < LEAST_SEEDS else f"{text}\n[{low:.{digits}f}, {high:.{digits}f}]"


def _digits(column: Column, mean: float) -> int:
    """Those of the column; up to two more, where the mean, a small KL, would have less than two significant ones."""
    if not mean or not math.isfinite(mean):
        return column.digits
    return min(max(column.digits, 1 - math.floor(math.log10(abs(mean)))), column.digits + 2)
