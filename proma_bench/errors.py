"""Errors that the command line prints as one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """A mistake in what was asked for: an unknown name, a setting out of range, a directory that is taken."""


class RunError(Exception):
    """A run that cannot go on: a full disk, a damaged directory, numbers that are no longer finite."""


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise UsageError that names the nearest known name unless ``name`` is one of them."""
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise UsageError(f"unknown {kind} {name!r}; did you mean {near!r}? (known: {', '.join(names)})")
