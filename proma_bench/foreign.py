"""What code of somebody else returns and raises, in one line: even its text comes from that code, and may fail."""

from __future__ import annotations

import inspect

FAILURES = (Exception, SystemExit)
"""What such code may raise to no harm. Ctrl-C is not among it."""


def shown(value: object, longest: int = 160) -> str:
    """The value in one line of limited length.

    A coroutine is closed. It would make Python print a warning that nobody has awaited it.
    """
    if inspect.iscoroutine(value):
        value.close()
    try:
        line = " ".join(repr(value).split())
    except FAILURES:
        line = f"an object of {type(value).__name__} that cannot be shown"
    return line if len(line) <= longest else f"{line[:longest]}..."


def described(error: BaseException) -> str:
    """The type of an error and its text in one line."""
    try:
        line = " ".join(str(error).split())
    except FAILURES:
        line = "its text cannot be shown"
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
