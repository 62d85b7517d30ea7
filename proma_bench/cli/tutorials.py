"""The tutorials on the reader's disk: a copy that the reader may change, opened in JupyterLab."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from proma_bench import files
from proma_bench.console import say
from proma_bench.errors import UsageError

PATTERNS = ("*.ipynb", "*.mplstyle", "checks/*.py", "figures/*.py")
GLOSSARY = "glossary.ipynb"
LARGEST = 64 * files.MEGABYTE
_PACKAGE = Path(__file__).parents[1]


def shipped() -> Path:
    """The folder that holds the tutorials: inside an installed package, or beside it in a checkout."""
    installed = _PACKAGE / "tutorials"
    return installed if installed.is_dir() else _PACKAGE.parent / "tutorials"


def copy_tutorials(folder: Path) -> tuple[list[str], list[str]]:
    """Copy what is not there yet. Returns the names of new files, and of files that differ and were left as they are.

    Raises:
        UsageError: the path exists and is not a folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a directory; name another one with --out")
    new, kept = [], []
    files.make_folder(folder)
    for name, content in _files():
        if files.create(folder, name, content):
            new.append(name)
        elif not files.is_file(folder / name) or files.read(folder / name, LARGEST) != content:
            kept.append(name)
    return new, kept


def _files() -> Iterator[tuple[str, bytes]]:
    home = shipped()
    for pattern in PATTERNS:
        for path in sorted(home.glob(pattern)):
            content = files.read(path, LARGEST)
            lesson = path.suffix == ".ipynb"
            yield path.relative_to(home).as_posix(), _without_links(content.decode()).encode() if lesson else content
    yield GLOSSARY, _glossary(home)


def _without_links(text: str) -> str:
    """The text of a lesson for a folder of its own: what is linked in the repository's docs is named, and no link."""
    text = text.replace("(../docs/glossary.md)", f"({GLOSSARY})")
    return re.sub(r"\[([^\[\]]*)\]\(\.\./([^)]+)\)", lambda link: _named(link[1], link[2]), text)


def _named(words: str, page: str) -> str:
    return page if words == page else f"{words} ({page} in the repository)"


def _glossary(home: Path) -> bytes:
    """The page of symbols as a notebook: JupyterLab shows a Markdown file as its source."""
    installed = home / "glossary.md"
    page = files.read(installed if installed.exists() else home.parent / "docs" / "glossary.md", LARGEST).decode()
    text = _without_links(re.sub(r"\]\((?=\w+\.md)", "](../docs/", page))
    cell = {"cell_type": "markdown", "id": "glossary", "metadata": {}, "source": text}
    # Without a kernel's name, JupyterLab asks for one.
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1).encode()


def open_tutorials(folder: Path, console: Console) -> None:
    """Copy the tutorials there and become JupyterLab, at lesson 0.

    Raises:
        ModuleNotFoundError: JupyterLab is not installed.
    """
    if importlib.util.find_spec("jupyterlab") is None:  # the command line says what to install
        raise ModuleNotFoundError("No module named 'jupyterlab'", name="jupyterlab")
    new, kept = copy_tutorials(folder)
    say(console, f"tutorials: {folder} ({len(new)} new files)")
    if kept:
        say(console, f"left as you changed them: {', '.join(kept)} (delete for a fresh copy)")
    first = min(folder.glob("0_*.ipynb"))
    sys.stdout.flush()
    address = f"--LabApp.default_url=/lab/tree/{first.name}"  # where no browser opens, the printed link leads there
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", address, str(folder)])
