"""Errors that the command line prints as one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """A mistake of the user: an unknown name, a setting out of range, a directory that is already in use."""


class RunError(Exception):
    """A run cannot continue: the disk is full, the directory is damaged, or numbers are no longer finite."""


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Require that a name is known.

    Args:
        kind: the kind of thing that is named, for the message.
        name: the name.
        known: all known names.

    Raises:
        UsageError: the name is not known; the message contains the most similar known name.
    """
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise UsageError(f"unknown {kind} {name!r}; did you mean {near!r}? (known: {', '.join(names)})")
