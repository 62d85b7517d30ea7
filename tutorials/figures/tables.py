"""Tables as a notebook shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from IPython.display import Markdown, display
from rich.table import Table

from proma_bench.report.markdown import markdown_table
from proma_bench.report.table import as_grid


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]], *, numbers: bool = True) -> None:
    """Show a table. All columns but the first hold numbers, unless told otherwise."""
    display(Markdown(markdown_table(_cells(header), list(map(_cells, rows)), numbers=numbers)))


def as_printed(made: Table) -> None:
    """Show a table that a command prints in a terminal, with its title."""
    title, header, rows = as_grid(made)
    escaped = title.replace("*", r"\*")
    display(Markdown(f"*{escaped}*"))
    table(header, rows, numbers=False)


def _cells(row: Sequence[Any]) -> list[str]:
    return [str(cell).replace("\n", "<br>") for cell in row]
