"""A run's directory: written by one process at a time, readable by anyone at any time.

    config.json     the settings, the versions and the criteria that will judge the run, written before the first step
    metrics.jsonl   one object per optimizer step, flushed as it is written
    checkpoint/     the last two checkpoints (see `proma_bench.runs.checkpoints`)
    diverged.json   the step whose numbers were no longer finite, and the reason; the run ends before this step
    summary.json    the initial scores, the last step's and the mean metrics; there once the run is finished

A process may be killed at any moment: a resumed run cuts ``metrics.jsonl`` back to its checkpoint and repeats the
steps in between, with the same results.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from proma_bench.errors import RunError, UsageError
from proma_bench.learning.config import RunConfig, to_json
from proma_bench.runs import criteria

Metrics = dict[str, Any]

FORMAT = 1
"""Of the files in a run's directory: counts up when names in them change."""
ABOUT = frozenset({"format", "title", "versions", "criteria"})
"""What ``config.json`` holds besides the settings."""

DIVERGED = "diverged.json"

_PACKAGES = ("proma-bench", "torch", "numpy", "scikit-learn", "gymnasium", "transformers", "reasoning_gym")


# ------------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class Divergence:
    """The optimizer step at which numbers of a run were no longer finite, and the reason."""

    step: int
    reason: str

    def __str__(self) -> str:
        return f"diverged at step {self.step}: {self.reason}"


@dataclass(frozen=True)
class Run:
    """What a run has left on disk so far."""

    path: Path
    config: dict[str, Any]
    metrics: list[Metrics]
    finished: bool
    diverged: Divergence | None = None


def read_run(path: Path) -> Run:
    """Read a run's directory.

    Raises:
        RunError: a file in it is not what it should be.
    """
    config = read_json(path / "config.json")
    if config.get("format") != FORMAT:
        raise RunError(
            f"{path / 'config.json'} has format {config.get('format')!r:.20}, not {FORMAT}: the run was made by "
            "another version, whose settings and metrics have other names; run it again"
        )
    missing = {"title", "tier", "method", "seed", "learning_rate", "steps"} - config.keys()
    if missing:
        raise RunError(f"{path / 'config.json'} lacks {', '.join(sorted(missing))}")
    metrics = read_metrics(path / "metrics.jsonl")
    finished = (path / "summary.json").exists() and len(metrics) == config["steps"]
    diverged = None if finished else read_divergence(path)
    if diverged is not None and len(metrics) >= diverged.step:
        raise RunError(f"{path / DIVERGED} has step {diverged.step}, but {len(metrics)} steps are recorded")
    return Run(path, config, metrics, finished, diverged)


def read_metrics(path: Path) -> list[Metrics]:
    """The recorded steps. A last line that was cut short is left out; RunError for damage anywhere else."""
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    history = []
    for number, line in enumerate(lines, start=1):
        try:
            metrics = json.loads(line, parse_constant=_no_number)
        except _NotANumber as error:
            raise RunError(
                f"{path}, line {number}: {error}, which older versions recorded when a run diverged; run it again"
            ) from None
        except ValueError:
            raise RunError(f"{path}, line {number}: not JSON") from None
        if not isinstance(metrics, dict) or metrics.get("step") != number:
            raise RunError(f"{path}, line {number}: not the metrics of step {number}")
        history.append(metrics)
    return history


def read_divergence(path: Path) -> Divergence | None:
    """Where a run diverged; None if it did not.

    Raises:
        RunError: the file that says so is damaged.
    """
    if not (path / DIVERGED).exists():
        return None
    stored = read_json(path / DIVERGED)
    step, reason = stored.get("step"), stored.get("reason")
    if type(step) is not int or step < 1 or not isinstance(reason, str):
        raise RunError(f"{path / DIVERGED} has no step and reason; without this file, --resume tries again")
    return Divergence(step, reason)


class _NotANumber(ValueError):
    """A constant of Python's that JSON does not have."""


def _no_number(constant: str) -> NoReturn:
    raise _NotANumber(f"{constant} is not JSON")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RunError: the file is not one.
    """
    try:
        stored = json.loads(path.read_text(), parse_constant=_no_number)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from None
    if not isinstance(stored, dict):
        raise RunError(f"cannot read {path}: not a JSON object")
    return stored


# ------------------------------------------------------------------------------------------------ writing


class InUseError(UsageError):
    """Another process is at work in the directory."""


@contextlib.contextmanager
def claim(path: Path, config: RunConfig, resume: bool) -> Iterator[Path]:
    """Hold a directory for a run, alone, from here to the end of the ``with`` block.

    Raises:
        UsageError: the directory holds a different run, or holds this one already and ``resume`` is not set. Nothing
            has changed then.
        InUseError: another process is at work in it.
        RunError: its file system has no locks.
    """
    _require_free(path, config, resume)
    path.mkdir(parents=True, exist_ok=True)
    with open(path / ".lock", "ab", opener=_unless_link) as lock:  # it stays there: only its lock means something
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"{path} is in use by another process") from None
        except OSError as error:  # NFS without its lock daemon, for example
            raise RunError(
                f"{path}: its file system cannot lock files ({error.strerror}), so nothing keeps two processes from "
                "writing there at once; choose an --out on another file system, such as a local disk"
            ) from None
        _require_free(path, config, resume)
        if not (path / "config.json").exists():
            judged = None if config.is_smoke_run else criteria.to_json(criteria.criteria_for(config))
            about = {"format": FORMAT, "title": config.title, "versions": _versions(), "criteria": judged}
            write_json(path / "config.json", {**about, **to_json(config)})
        yield path


def _unless_link(path: str, flags: int) -> int:
    """Open a file of a directory that somebody else may have prepared: a link leads to a file that is none of ours."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _require_free(path: Path, config: RunConfig, resume: bool) -> None:
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not a directory")
    if (path / "ladder.json").exists():
        raise UsageError(f"{path} holds a whole ladder; choose another --out")
    if not (path / "config.json").exists():
        return
    run, wanted = read_run(path), to_json(config)
    different = [
        f"{name} {run.config.get(name)!r}, not {wanted.get(name)!r}"
        for name in sorted({*run.config, *wanted} - ABOUT)
        if run.config.get(name) != wanted.get(name)
    ]
    if different:
        raise UsageError(f"{path} holds a different run ({'; '.join(different)}); choose another --out")
    if not resume:
        if run.diverged is not None:
            raise UsageError(f"{path} holds this run already, which {run.diverged}; choose other settings and --out")
        done = f"{len(run.metrics)} of {config.steps} steps"
        raise UsageError(f"{path} holds this run already ({done}); --resume continues it")


class MetricsFile:
    """``metrics.jsonl``, cut back to the given steps and open for more."""

    def __init__(self, path: Path, kept: list[Metrics]) -> None:
        lines = path.read_bytes().splitlines(keepends=True)[: len(kept)] if path.exists() else []
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._file.truncate(sum(map(len, lines)))
        self._file.seek(0, os.SEEK_END)

    def append(self, metrics: Metrics) -> None:
        """Write one step, whole."""
        line = json.dumps(metrics, allow_nan=False).encode() + b"\n"
        while line:
            line = line[self._file.write(line) :]

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk and its like into one line that says how to go on."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"{path}: {reason}; what is recorded is safe, --resume continues from there") from error


def write_json(path: Path, content: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Write a whole file or none."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    os.replace(unfinished, path)


def summary(history: list[Metrics], initial: Metrics) -> dict[str, Any]:
    """The scores before training, the last step's metrics, and each metric's mean over all steps that have it."""
    last = history[-1]
    present = {
        name: [step[name] for step in history if isinstance(step.get(name), int | float)]
        for name in last
        if name != "step"
    }
    mean = {name: sum(value / len(values) for value in values) for name, values in present.items() if values}
    return {"initial": initial, "last": last, "mean": mean}


def _versions() -> dict[str, str]:
    """Versions of Python and of what decides the numbers."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
