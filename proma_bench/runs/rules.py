"""``rule.py`` in a run's directory: the text of the file with the update rule, if that is the user's own.

It says what was run. It is compared with the user's file when the run goes on, and never executed.
"""

from __future__ import annotations

import os
from pathlib import Path

from proma_bench import files
from proma_bench.errors import RunError, UsageError

RULE = "rule.py"


def keep_rule(path: Path, source: str | None) -> None:
    """Store the text, in a directory that is held; None is no such file."""
    if source is not None and not os.path.lexists(path / RULE):
        files.write(path, RULE, source.encode())


def require_same_rule(path: Path, source: str | None) -> None:
    """Require that a run that is there was started with the same file of its update rule.

    Raises:
        UsageError: it was another one.
        RunError: it cannot be read.
    """
    if source is None or not os.path.lexists(path / RULE):
        return
    try:
        stored = files.read(path / RULE)
    except OSError as error:
        raise RunError(f"cannot read {path / RULE}: {error.strerror}") from None
    if stored != source.encode():
        raise UsageError(
            f"the file with the update rule has changed since the run in {path} was started ({path / RULE} is what it "
            "was); choose another --out"
        )
