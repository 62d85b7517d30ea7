"""``rule.py`` in a run's directory: the text of the file with the update rule, if that is the user's own.

It says what was run. It is compared with the user's file when the run goes on, and never executed.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from proma_bench import files
from proma_bench.errors import RunError, UsageError

RULE = "rule.py"


def keep_rule(path: Path, source: str | None) -> None:
    """Store the text, in a directory that is held; None is no such file. It stays once a step is recorded."""
    if source is not None and not (has_begun(path) and os.path.lexists(path / RULE)):
        files.write(path, RULE, source.encode())


def has_begun(path: Path) -> bool:
    """Whether the run in a directory has recorded a step."""
    try:
        return os.lstat(path / "metrics.jsonl").st_size > 0
    except OSError:
        return False


def digest_of_rule(path: Path) -> str | None:
    """The SHA-256 of the text in a run's directory; None where there is none that can be read."""
    try:
        return hashlib.sha256(files.read(path / RULE)).hexdigest()
    except OSError:
        return None


def require_same_rule(path: Path, source: str | None) -> None:
    """Require that the steps of a run that is there were made with the same file of its update rule.

    Raises:
        UsageError: it was another one.
        RunError: it cannot be read.
    """
    if source is None or not (has_begun(path) and os.path.lexists(path / RULE)):
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
