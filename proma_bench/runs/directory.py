"""A run's directory: written by one process at a time, readable by anyone at any time.

    config.json     the settings, the versions and the criteria that will judge the run, written before the first step
    rule.py         the text of the file with the update rule, if the user has named one (see `proma_bench.runs.rules`)
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
import itertools
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proma_bench import files
from proma_bench.errors import RunError, UsageError
from proma_bench.learning.config import RunConfig, defaults, to_json
from proma_bench.runs import criteria, strict_json, versions

Metrics = dict[str, Any]

FORMAT = 1
"""Of the files in a run's directory: counts up when names in them change, or old settings mean something else."""
ABOUT = frozenset({"format", "title", "versions", "criteria", "resumed", "extended"})
"""What ``config.json`` holds besides the settings."""

DIVERGED = "diverged.json"
"""Says at which step a run diverged, and why."""
_WRITTEN = ("metrics.jsonl", "summary.json", "test.json", "checkpoint", DIVERGED)
"""What a run writes after ``config.json``."""
LARGEST_METRICS = 1024 * files.MEGABYTE
"""Of ``metrics.jsonl``, in bytes: more than a run of a language model writes in ten thousand steps."""
LONGEST_LINE = 16 * files.MEGABYTE


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
    finished = files.is_file(path / "summary.json") and len(metrics) == config["steps"]
    diverged = None if finished else read_divergence(path)
    if diverged is not None and len(metrics) >= diverged.step:
        raise RunError(f"{path / DIVERGED} has step {diverged.step}, but {len(metrics)} steps are recorded")
    return Run(path, config, metrics, finished, diverged)


def read_metrics(path: Path) -> list[Metrics]:
    """The recorded steps. A last line that was cut short is left out; RunError for damage anywhere else."""
    return [metrics for _, metrics in _recorded(path)]


def _recorded(path: Path) -> Iterator[tuple[bytes, Metrics]]:
    """The lines that are whole, with what they say."""
    try:
        with files.opened(path, LARGEST_METRICS) as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
                if line.endswith(b"\n"):
                    yield line, _metrics(line, f"{path}, line {number}", number)
                elif len(line) == LONGEST_LINE:
                    raise RunError(f"{path}, line {number}: longer than {LONGEST_LINE:,} bytes")
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None


def _metrics(line: bytes, place: str, step: int) -> Metrics:
    try:
        metrics = strict_json.loads(line)
    except strict_json.NotANumber as error:
        raise RunError(f"{place}: {error}, which older versions recorded when a run diverged; run it again") from None
    except json.JSONDecodeError:
        raise RunError(f"{place}: not JSON") from None
    except ValueError as error:
        raise RunError(f"{place}: {error}") from None
    if not isinstance(metrics, dict) or metrics.get("step") != step:
        raise RunError(f"{place}: not the metrics of step {step}")
    return metrics


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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RunError: the file is not one.
    """
    try:
        stored = strict_json.loads(files.read(path))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise RunError(f"cannot read {path}: {error}") from None
    if not isinstance(stored, dict):
        raise RunError(f"cannot read {path}: not a JSON object")
    return stored


# ------------------------------------------------------------------------------------------------ writing


class InUseError(UsageError):
    """Another process is at work in the directory."""


@contextlib.contextmanager
def claim(path: Path, config: RunConfig, resume: bool, strict: bool = False) -> Iterator[Path]:
    """Hold a directory for a run, alone, from here to the end of the ``with`` block.

    Args:
        path: the directory.
        config: the run. More steps than the directory's run has continue that one.
        resume: go on with what the directory holds.
        strict: do so only with the versions that the run was started with.

    Raises:
        UsageError: the directory holds a different run, or holds this one already and ``resume`` is not set. Nothing
            has changed then.
        InUseError: another process is at work in it.
        RunError: its file system has no locks.
    """
    _require_free(path, config, resume, strict)
    files.make_folder(path)
    with files.open_lock(path, ".lock") as lock:  # the file stays there: only its lock means something
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"{path} is in use by another process") from None
        except OSError as error:  # NFS without its lock daemon, for example
            raise RunError(
                f"{path}: its file system cannot lock files ({error.strerror}), so nothing keeps two processes from "
                "writing there at once; choose an --out on another file system, such as a local disk"
            ) from None
        _record(path, config, _require_free(path, config, resume, strict))
        yield path


def _require_free(path: Path, config: RunConfig, resume: bool, strict: bool) -> Run | None:
    """The run that is there already, if it can be continued."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not a directory")
    if (path / "ladder.json").exists():
        raise UsageError(f"{path} holds a whole ladder; choose another --out")
    if not os.path.lexists(path / "config.json"):  # which a run writes first
        if others := [name for name in _WRITTEN if os.path.lexists(path / name)]:
            raise UsageError(f"{path} has {others[0]}, but no config.json that says of which run; choose another --out")
        return None
    run, wanted = read_run(path), to_json(config)
    stored = {**defaults(type(config)), **run.config}
    is_longer = type(run.config["steps"]) is int and config.steps > run.config["steps"]
    different = [
        f"{name} {stored.get(name)!r:.60}, not {wanted.get(name)!r:.60}"
        for name in sorted({*stored, *wanted} - ABOUT - ({"steps"} if is_longer else set()))
        if stored.get(name) != wanted.get(name)
    ]
    if different:
        raise UsageError(f"{path} holds a different run ({'; '.join(different)}); choose another --out")
    if not resume:
        if run.diverged is not None:
            raise UsageError(f"{path} holds this run already, which {run.diverged}; choose other settings and --out")
        done = f"{len(run.metrics)} of {config.steps} steps"
        raise UsageError(f"{path} holds this run already ({done}); --resume continues it")
    if strict and (other := versions.changes(run.config)):
        raise UsageError(f"{path} was started with other versions ({other}), which --strict refuses to mix")
    return run


def _record(path: Path, config: RunConfig, run: Run | None) -> None:
    """Write ``config.json`` for a new run, or bring it up to date for one that goes on."""
    if run is None:
        judged = None if config.is_smoke_run else criteria.to_json(criteria.criteria_for(config))
        about = {"format": FORMAT, "title": config.title, "versions": versions.installed(), "criteria": judged}
        write_json(path / "config.json", {**about, **to_json(config)})
        return
    if run.finished and config.steps == run.config["steps"]:
        return
    present = versions.with_present(run.config, step=len(run.metrics))
    if config.steps != run.config["steps"]:
        earlier = run.config.get("extended")
        extended = [*(earlier if isinstance(earlier, list) else []), run.config["steps"]]
        present = {**present, "steps": config.steps, "extended": extended}
    if present != run.config:
        write_json(path / "config.json", present)


class MetricsFile:
    """``metrics.jsonl``, cut back to its first steps and open for more."""

    def __init__(self, path: Path, steps: int) -> None:
        self._path = path
        kept = b"".join(line for line, _ in itertools.islice(_recorded(path), steps))
        self._file = files.rewrite(path.parent, path.name, kept)

    def append(self, metrics: Metrics) -> None:
        """Write one step, whole."""
        files.append(self._file, strict_json.dumps(metrics), self._path)

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk and its like into one line that names the file and says how to go on."""
    try:
        yield
    except OSError as error:
        place, reason = error.filename or path, error.strerror or str(error)
        raise RunError(f"{place}: {reason}; what is recorded is safe, --resume continues from there") from error


def write_json(path: Path, content: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Write a whole file or none."""
    files.write(path.parent, path.name, strict_json.dumps(content, indent=2))


def summary(history: list[Metrics], initial: Metrics) -> dict[str, Any]:
    """The scores before training, the last step's metrics, and each metric's mean over all steps that have it."""
    last = history[-1]
    present = {name: [step[name] for step in history if _is_finite(step.get(name))] for name in last if name != "step"}
    mean = {name: math.fsum(value / len(values) for value in values) for name, values in present.items() if values}
    return {"initial": initial, "last": last, "mean": mean}


def _is_finite(value: object) -> bool:
    """Also false for a whole number beyond any float."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max
