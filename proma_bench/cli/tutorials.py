"""The tutorials on the reader's disk: a copy that the reader may change, opened in JupyterLab."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from proma_bench import files
from proma_bench.console import say
from proma_bench.errors import UsageError

PATTERNS = ("*.ipynb", "*.mplstyle", "checks/*.py", "figures/*.py")
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
            yield path.relative_to(home).as_posix(), files.read(path, LARGEST)


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
