"""Errors that the command line prints as one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """A mistake of the user: an unknown name, a setting out of range, a directory that is already in use."""


class RunError(Exception):
    """A run cannot continue: the disk is full, or the directory is damaged, or an environment has failed."""


class DivergenceError(RunError):
    """Numbers of a run are no longer finite. Nothing helps but other settings: the same step gives the same numbers.

    Attributes:
        reason: what is not finite, and what to do.
        step: the optimizer step; None until the training loop adds it.
    """

    def __init__(self, reason: str, step: int | None = None) -> None:
        super().__init__(reason if step is None else f"diverged at step {step}: {reason}")
        self.reason, self.step = reason, step


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
        near = max(names, key=lambda one: difflib.SequenceMatcher(None, name, one).ratio())  # of equals the first
        raise UsageError(f"unknown {kind} {name!r}; did you mean {near!r}? (known: {', '.join(names)})")
