"""A function that the user has named on the command line: ``FILE.py:NAME``, or ``PACKAGE.MODULE:NAME``."""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from proma_bench import files
from proma_bench.errors import UsageError
from proma_bench.foreign import described

FORM = "FILE.py:NAME or PACKAGE.MODULE:NAME"


class Named(NamedTuple):
    """What a name stands for, and the text of the file that it is in; None where there is no such file."""

    function: Callable[..., Any]
    source: str | None


def parse(name: str) -> tuple[str, str] | None:
    """The file or module of a name, and the function in it; None if it has not the `FORM`."""
    place, _, function = name.rpartition(":")
    is_place = place.endswith(".py") or all(part.isidentifier() for part in place.split("."))
    return (place, function) if is_place and function.isidentifier() and name.isprintable() else None


def load(name: str) -> Named:
    """The function or class of a name. Its file or module is imported, with the modules beside it.

    Raises:
        UsageError: there is none; the message has the nearest name.
    """
    parsed = parse(name)
    if parsed is None:
        raise UsageError(f"a function is named {FORM}, got {name!r}")
    place, function = parsed
    module, source = _from_file(place) if place.endswith(".py") else _from_module(place)
    found = getattr(module, function, None)
    if not callable(found):
        raise UsageError(f"{place} has no function {function!r}{_nearest(function, _functions(module))}")
    return Named(found, source)


def _from_file(place: str) -> tuple[ModuleType, str]:
    source, file = _read(place, Path(place).expanduser()), Path(place).expanduser().resolve()
    module = ModuleType(f"_functions_in_{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    _import(place, lambda: exec(compile(source, str(file), "exec"), module.__dict__))
    return module, source


def _from_module(place: str) -> tuple[ModuleType, str | None]:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module: ModuleType = _import(place, lambda: importlib.import_module(place))
    file = getattr(module, "__file__", None) or ""
    return module, _read(place, Path(file)) if file.endswith(".py") else None


def _read(place: str, path: Path) -> str:
    try:
        with files.opened(path, files.MEGABYTE, follow_links=True) as file:
            return file.read().decode()
    except OSError as error:
        raise UsageError(f"cannot read {place}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {place}: it is not UTF-8") from error


def _import(place: str, act: Callable[[], Any]) -> Any:
    try:
        return act()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a module does when it is imported: it may exit, or skip itself as a test
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{place}.".startswith(f"{missing}."):
            raise UsageError(f"unknown module: {missing!r}{_nearest(missing, _modules_beside(missing))}") from error
        raise UsageError(f"cannot import {place}: {described(error)}") from error


def _functions(module: ModuleType) -> list[str]:
    """What the module defines; where that is nothing, what it imports."""
    public = {name: value for name, value in vars(module).items() if callable(value) and not name.startswith("_")}
    own = [name for name, value in public.items() if getattr(value, "__module__", None) == module.__name__]
    return own or list(public)


def _modules_beside(name: str) -> list[str]:
    parent, _, _ = name.rpartition(".")
    places = getattr(sys.modules.get(parent), "__path__", []) if parent else None
    return [f"{parent}.{module.name}".lstrip(".") for module in pkgutil.iter_modules(places)]


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"; did you mean {near[0]!r}?" if near else ""
