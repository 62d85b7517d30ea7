"""The closing table: methods by metrics, with intervals over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table

from proma_bench.report.statistics import CONFIDENCE, Array, Group, interval


@dataclass(frozen=True)
class Column:
    """A figure a run: a metric and what of its steps [seeds, steps] is taken."""

    heading: str
    metric: str
    reduce: Callable[[Array], Array]
    digits: int = 3


def _end(series: Array) -> Array:
    return series[:, -1]


def _mean(series: Array) -> Array:
    return series.mean(axis=1)


COLUMNS = (
    Column("accuracy\n(greedy, end)", "accuracy", _end),
    Column("reward\n(mean)", "reward", _mean),
    Column("local KL\n(mean)", "kl_local", _mean, digits=5),
    Column("global KL\n(end)", "kl_global", _end),
    Column("entropy\n(end)", "entropy", _end),
    Column("at clamp\n(mean)", "clamped", _mean, digits=2),
)


def summary_table(tier: str, groups: Sequence[Group]) -> Table:
    """One row a group of runs (all on one rung), one cell a figure: mean over seeds [interval]."""
    table = Table(title=f"{tier}: mean over seeds [{CONFIDENCE:.0%} interval]", title_justify="left")
    table.add_column("method")
    for heading in ("lr", "seeds", "steps", *(column.heading for column in COLUMNS)):
        table.add_column(heading, justify="right")
    for group in groups:
        seeds, steps = group.series("step").shape
        cells = [_cell(column, group) for column in COLUMNS]
        table.add_row(group.method, f"{group.learning_rate:g}", str(seeds), str(steps), *cells)
    return table


def _cell(column: Column, group: Group) -> str:
    values = column.reduce(group.series(column.metric))
    if not (values == values).all():  # not measured, as the clamp of a method that has none
        return "-"
    mean, low, high = interval(values)
    text = f"{mean:.{column.digits}f}"
    return text if len(values) < 2 else f"{text}\n\\[{low:.{column.digits}f}, {high:.{column.digits}f}]"
