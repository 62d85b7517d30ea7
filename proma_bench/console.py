"""What is printed is text: whatever is in it, nothing of it is markup, an emoji's code or an order to the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Styled = str | tuple[str, str]
"""Text, or text with a style of rich."""


def printable(text: str) -> str:
    """The text without control characters, which a terminal would obey."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def make_console(*, stderr: bool = False) -> Console:
    """A console; a log, which has no width of its own, gets 120 columns."""
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.file.isatty():
        console.width = 120
    return console


def text(*parts: Styled) -> Text:
    """Text for a console, a table or a bar. Line breaks stay."""
    shown = Text()
    for words, style in map(_with_style, parts):
        shown.append("\n".join(map(printable, words.split("\n"))), style)
    return shown


def say(console: Console, *parts: Styled) -> None:
    """Print one line, however long it is and whatever is in it."""
    line = [(printable(words), style) for words, style in map(_with_style, parts)]
    console.print(text(*line), soft_wrap=True)


def _with_style(part: Styled) -> tuple[str, str]:
    return part if isinstance(part, tuple) else (part, "")


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str | Text]], *, lines: bool = False) -> Table:
    """A table whose first column is aligned to the left, and the others as given."""
    made = Table(title=text(title), title_justify="left", box=box.SIMPLE, show_lines=lines, pad_edge=False)
    justify: Literal["left", "right"] = "left"
    for heading in headings:
        made.add_column(text(heading), justify=justify)
        justify = "right"
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else text(cell) for cell in row))
    return made
