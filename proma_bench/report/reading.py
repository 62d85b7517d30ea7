"""Runs as they are found on disk, by whoever wrote them: nothing in them is trusted.

A run that cannot be read is left out with one line that says why. What is left has the types that the rest of the
report counts on: names are strings, the seed and the number of steps are whole numbers, metrics are finite or None.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proma_bench import files
from proma_bench.console import printable
from proma_bench.errors import RunError, UsageError
from proma_bench.learning.metrics import METRICS
from proma_bench.runs.directory import Run, read_run

LONGEST_NAME = 120
LARGEST = 1e100
"""Of a metric, in size: those of float32 are below 1e39, and sums of larger ones overflow."""


@dataclass(frozen=True)
class Reading:
    """What a directory tree holds: the runs that can be used, and a line for everything that cannot."""

    runs: list[Run]
    problems: list[str]


def read_runs(root: Path) -> Reading:
    """Read every run under ``root``.

    Raises:
        UsageError: there is none.
        RunError: none can be used.
    """
    runs: list[Run] = []
    unknown: set[str] = set()
    if not root.is_dir():
        raise UsageError(f"{root} is not a directory")
    found, problems = files.find(root, "config.json")
    for path in found:
        try:
            run = _checked(read_run(path.parent))
        except RunError as error:
            problems.append(f"left out: {error}")
            continue
        unknown |= {name for step in run.metrics for name in step.keys() - METRICS.keys()}
        runs.append(run)
    if problems and not runs:
        raise RunError(printable("; ".join(problems)))
    if not runs:
        raise UsageError(f"no runs (no config.json) under {root}")
    problems += [f"unknown metric {name!r}: not reported" for name in sorted(unknown)[:10]]
    if not any(run.metrics or run.diverged for run in runs):
        raise UsageError("none of the runs has recorded a step yet")
    return Reading(runs, list(map(printable, problems)))


def _checked(run: Run) -> Run:
    """Return the run itself if its values are sound.

    Raises:
        RunError: a value has a wrong type or size.
    """
    for problem in _problems_of(run.config):
        raise RunError(f"{run.path / 'config.json'}: {problem}")
    for number, metrics in enumerate(run.metrics, start=1):
        for name, value in metrics.items():
            if not _is_metric(name, value):
                shown = "an object" if isinstance(value, dict) else _shown(value)
                wanted = "an object of finite numbers" if _is_by_layer(name) else "a finite number"
                place = f"{run.path / 'metrics.jsonl'}, line {number}"
                raise RunError(f"{place}: {name:.40} is {shown}, not {wanted} up to {LARGEST:g}")
    return run


def _problems_of(config: dict[str, Any]) -> Iterator[str]:
    for name in ("tier", "title", "method"):
        value = config[name]
        if not (isinstance(value, str) and 1 <= len(value) <= LONGEST_NAME and value.isprintable()):
            yield f"{name} must be a name of up to {LONGEST_NAME} printable characters, got {_shown(value)}"
    for name, least in (("seed", 0), ("steps", 1)):
        value = config[name]
        if type(value) is not int or value < least:
            yield f"{name} must be a whole number from {least} on, got {_shown(value)}"
    if not _is_number(config["learning_rate"], sys.float_info.max) or config["learning_rate"] <= 0:
        yield f"learning_rate must be a number above 0, got {_shown(config['learning_rate'])}"


def _is_metric(name: str, value: object) -> bool:
    """A number, None where nothing was measured; by layer, an object of such."""
    if _is_by_layer(name) and isinstance(value, dict):
        return all(_is_metric("", share) for share in value.values())
    return value is None or (not _is_by_layer(name) and _is_number(value, LARGEST))


def _is_by_layer(name: str) -> bool:
    return name in METRICS and METRICS[name].by_layer


def _shown(value: object) -> str:
    try:
        return f"{value!r:.40}"
    except ValueError:  # a whole number of thousands of digits
        return "too long a number"


def _is_number(value: object, largest: float) -> bool:
    """Not for NaN, nor for a whole number beyond any float."""
    return isinstance(value, int | float) and abs(value) <= largest
