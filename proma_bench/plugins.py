"""Plug-ins: modules outside this package that add methods, tiers, layer rules, projections, metrics or claims to it.

A plug-in is a module that calls functions such as `register_method` or `register_metric`, or defines a tier, when it is
imported. The command line and every worker of a ladder import two kinds of plug-ins:

    modules in the entry-point group ``proma_bench.plugins`` of installed packages
    modules in the environment variable PROMA_BENCH_PLUGINS: names of modules or paths of .py files, separated by commas

Plug-ins can only be chosen in these two ways: the directory of a run, a data file or a model cannot load one.
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
from proma_bench.foreign import FAILURES, described

GROUP = "proma_bench.plugins"
VARIABLE = "PROMA_BENCH_PLUGINS"


@functools.cache
def load_plugins() -> None:
    """Import all plug-ins, once per process.

    Raises:
        UsageError: a plug-in cannot be imported.
    """
    names = {entry.value for entry in importlib.metadata.entry_points(group=GROUP)}
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    for name in [*sorted(names), *filter(None, named)]:
        try:
            _import(name)
        except FAILURES as error:  # the import of a plug-in can raise anything
            raise UsageError(f"cannot import the plug-in {name}: {described(error)}") from error


def _import(name: str) -> None:
    """Import a module by its name, or a .py file as a module with the name of the file."""
    if not name.endswith(".py"):
        importlib.import_module(name)
        return
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    sys.path.insert(0, str(path.parent))
    importlib.import_module(path.stem)
