"""What code of somebody else returns and raises, in one line: even its text comes from that code, and may fail."""

from __future__ import annotations

import inspect

FAILURES = (Exception, SystemExit)
"""What such code may raise to no harm. Ctrl-C is not among it."""


LONGEST = 160
"""Characters of a value that are shown."""
LONGEST_ERROR = 600
"""Characters of an error's text that are shown: its reason is to be read."""


def shown(value: object, longest: int = LONGEST) -> str:
    """The value in one line of limited length.

    A coroutine is closed. It would make Python print a warning that nobody has awaited it.
    """
    if inspect.iscoroutine(value):
        value.close()
    try:
        line = " ".join(repr(value).split())
    except FAILURES:
        line = f"an object of {type(value).__name__} that cannot be shown"
    return _cut(line, longest)


def described(error: BaseException) -> str:
    """The type of an error and its text in one line of limited length."""
    try:
        line = " ".join(str(error).split())
    except FAILURES:
        line = "its text cannot be shown"
    return f"{type(error).__name__}: {_cut(line, LONGEST_ERROR)}" if line else type(error).__name__


def _cut(line: str, longest: int) -> str:
    return line if len(line) <= longest else f"{line[:longest]}..."
