"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    """A table.

    Args:
        header: one heading per column.
        rows: the cells. A line break in a cell becomes a space.
        numbers: whether all columns but the first hold numbers, which are aligned to the right.

    Returns:
        The table, without a new line at its end.
    """
    rule = ["---", *["---:" if numbers else "---"] * (len(header) - 1)]
    escaped = [[cell.replace("\n", " ").replace("|", r"\|") for cell in line] for line in (header, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (escaped[0], rule, *escaped[1:]))
