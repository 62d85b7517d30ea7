"""Modules from outside of this package that add to it: methods, tiers, layer rules, projections, metrics, claims.

A plug-in is any module that calls `register_method`, `register_metric` and the like, or defines a tier, when it is
imported. The command line and every worker of a ladder import

    the modules that installed packages name in the entry-point group ``proma_bench.plugins``, and
    those in the environment variable PROMA_BENCH_PLUGINS: names of modules, or paths of .py files, separated by commas.

Only a user of this machine can name one: nothing in a run's directory, a data file or a model does.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

from proma_bench.errors import UsageError

GROUP = "proma_bench.plugins"
VARIABLE = "PROMA_BENCH_PLUGINS"


@functools.cache
def load_plugins() -> None:
    """Import all plug-ins, once per process.

    Raises:
        UsageError: one cannot be imported.
    """
    names = {entry.value for entry in importlib.metadata.entry_points(group=GROUP)}
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    for name in [*sorted(names), *filter(None, named)]:
        try:
            _import(name)
        except Exception as error:  # whatever somebody else's module does when it is imported
            raise UsageError(f"cannot import the plug-in {name}: {type(error).__name__}: {error}") from error


def _import(name: str) -> None:
    """A module by its name, or a file, which is a module of the file's name from then on."""
    if not name.endswith(".py"):
        importlib.import_module(name)
        return
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    sys.path.insert(0, str(path.parent))
    importlib.import_module(path.stem)
