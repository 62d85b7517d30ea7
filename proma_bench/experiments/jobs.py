"""What is to be run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from proma_bench.learning.config import RunConfig


@dataclass(frozen=True)
class Job:
    """A run to be done, and where."""

    path: Path
    config: RunConfig
    attempt: int = 1
