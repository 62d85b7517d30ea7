"""The closing table: methods by metrics, with intervals over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from proma_bench.config import RunConfig
from proma_bench.report.statistics import CONFIDENCE, Array, Group, interval


@dataclass(frozen=True)
class Column:
    """A figure a run: a metric and what of its steps is taken, [seeds, steps] to [seeds]."""

    heading: str
    metric: str
    reduce: Callable[[Array], Array]
    digits: int = 3


def _end(series: Array) -> Array:
    return series[:, -1]


def _mean(series: Array) -> Array:
    return series.mean(axis=1)


SAMPLED = Column("sampled score\nat the end", "accuracy_sampled", _end)
REWARD = Column("reward\nsteps' mean", "reward", _mean)
COLUMNS = (
    Column("greedy score\nat the end", "accuracy", _end),
    SAMPLED,
    REWARD,
    Column("local KL\nsteps' mean", "kl_local", _mean, digits=4),
    Column("global KL\nat the end", "kl_global", _end),
    Column("entropy\nat the end", "entropy", _end),
    Column("clamp active\nsteps' mean", "clamped", _mean, digits=2),
)


def _columns(groups: Iterable[Group]) -> list[Column]:
    """What samples score is told once: on validation data where that is measured, else in training."""
    is_measured = all(bool((~np.isnan(SAMPLED.reduce(group.series(SAMPLED.metric)))).all()) for group in groups)
    return [column for column in COLUMNS if column is not (REWARD if is_measured else SAMPLED)]


def summary_table(tier: str, groups: Sequence[Group]) -> Table:
    """One row a group of runs (all on one rung), one cell a figure: mean over seeds [interval]."""
    lengths = sorted({group.series("step").shape[1] for group in groups})
    steps = " to ".join(str(length) for length in {lengths[0]: None, lengths[-1]: None})
    title = f"{escape(tier)}, {steps} steps: mean over seeds [{CONFIDENCE:.0%} bootstrap interval]"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_lines=True, pad_edge=False)
    table.add_column("method")
    columns = _columns(groups)
    for column in columns:
        table.add_column(column.heading, justify="right")
    for group in groups:
        name = f"{escape(group.method)}\nlr {group.learning_rate:g}, n {len(group.runs)}"
        table.add_row(name, *(_cell(column, group) for column in columns))
    return table


def ablation_table(config: RunConfig, groups: Mapping[str, Group], seeds: int) -> Table:
    """One row a variant, by its name."""
    title = f"{escape(config.rung)}, {config.steps} steps, lr {config.learning_rate:g}: mean over {seeds} seeds"
    title += f" [{CONFIDENCE:.0%} bootstrap interval]" if seeds > 1 else ""
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("variant")
    columns = _columns(groups.values())
    for column in columns:
        table.add_column(column.heading, justify="right")
    for name, group in groups.items():
        table.add_row(name, *(_cell(column, group) for column in columns))
    return table


def markdown(table: Table) -> str:
    """The table as Markdown, its title above it."""
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    first, *rest = [[cell.replace("\n", " ").replace("\\[", "[") for cell in row] for row in zip(*columns, strict=True)]
    rules = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join([f"{table.title}", "", *(f"| {' | '.join(row)} |" for row in (first, rules, *rest))])


def _cell(column: Column, group: Group) -> str:
    values = column.reduce(group.series(column.metric))
    if np.isnan(values).any():  # not measured, as the clamp of a method that has none
        return "-"
    mean, low, high = interval(values)
    text = f"{mean:.{column.digits}f}"
    return text if len(values) < 2 else f"{text}\n\\[{low:.{column.digits}f}, {high:.{column.digits}f}]"
