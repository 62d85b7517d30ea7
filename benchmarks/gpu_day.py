"""What to run on a machine with a GPU that is there for half an hour: the most valuable measurements first.

    python -m benchmarks.gpu_day [--minutes 25] [--out benchmarks/results/cuda-day] [--device cpu --small]

It needs torch, transformers and jaxtyping, and neither a network nor files. The parts of `benchmarks.gpu_parts`, the
tests that use a GPU (where pytest is installed) and `benchmarks.full_size` run in processes of their own,
with a time limit; one that fails does not stop the others. After each, what it found is stored in ``OUT/PART.json``,
and the table of all so far in ``OUT/report.md``, which is printed at the end. ``--device cpu --small`` is a rehearsal.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu_parts import PARTS
from benchmarks.settings import Settings, machine
from benchmarks.tables import ratio
from proma_bench.report.markdown import markdown_table

HOME = Path(__file__).parent.parent
SHORTEST = 10.0
"""Seconds: with less than this left, a part is not started."""


TESTS = ("tests/test_gpu.py", "tests/projection/test_fused.py", "tests/backward/test_products.py")
"""Those that use a GPU where there is one."""


class Part(NamedTuple):
    """A command whose last line of output says what it found, and the most seconds that it may take."""

    name: str
    command: Sequence[str]
    limit: float


@dataclass(frozen=True)
class Outcome:
    """What became of a part. found: what its last line says; trouble: why there is none."""

    part: str
    command: str
    seconds: float
    found: Any = None
    trouble: str | None = None


def parts(device: str, small: bool) -> list[Part]:
    """In the order of their value."""
    options = ["--device", device, *(["--small"] if small else [])]
    measured = {name: Part(name, ["-m", "benchmarks.gpu_parts", name, *options], 300.0) for name in PARTS}
    options_of_tests = ["-q", "-W", "default", "--noconftest", "--continue-on-collection-errors", "--tb=short"]
    tests = ["-m", "pytest", *options_of_tests, *TESTS]
    full_size = ["-m", "benchmarks.full_size", "--device", device]
    first, last = list(measured.values())[:3], list(measured.values())[3:]
    between = [Part("tests", tests, 420.0)] if device == "cuda" else []
    return [*first, *between, *last, *([] if small else [Part("full-size", full_size, 300.0)])]


def run(part: Part, seconds: float) -> Outcome:
    """Run a part with a time limit; its children end with it."""
    command = [sys.executable, *part.command]
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HOME), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        command, cwd=HOME, env=environment, start_new_session=True, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=seconds)
        trouble = f"exit status {process.returncode}" if process.returncode else None
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        trouble = f"stopped after {seconds:.0f} s"
    except BaseException:  # Ctrl-C does not reach it, as it has a session of its own
        os.killpg(process.pid, signal.SIGKILL)
        raise
    said = [text.strip().splitlines() for text in (output, errors)]
    last = [lines[-1] for lines in said if lines]
    shown = shlex.join(["python", *part.command])
    taken = round(time.monotonic() - started, 1)
    if trouble is None:
        return Outcome(part.name, shown, taken, found=_read(last[0] if last else ""))
    tail = "\n".join(line for lines in said for line in lines[-15:])
    return Outcome(part.name, shown, taken, trouble=f"{'; '.join([trouble, *last])}\n{tail}")


def _read(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line  # pytest's summary


def day(todo: Sequence[Part], minutes: float, out: Path, about: Mapping[str, Any]) -> list[Outcome]:
    """Run the parts while there is time, and store what is found after each."""
    ends = time.monotonic() + 60 * minutes
    outcomes: list[Outcome] = []
    for part in todo:
        left = ends - time.monotonic()
        if left < SHORTEST:
            outcome = Outcome(part.name, shlex.join(["python", *part.command]), 0.0, trouble="no time was left")
        else:
            outcome = run(part, min(part.limit, left))
        outcomes.append(outcome)
        stored = {**about, **asdict(outcome), "datetime": datetime.now(UTC).isoformat()}
        (out / f"{part.name}.json").write_text(json.dumps(stored, indent=4) + "\n")
        (out / "report.md").write_text(page(outcomes, about))
        sys.stderr.write(f"{part.name}: {'done' if outcome.trouble is None else outcome.trouble}\n")
    return outcomes


def page(outcomes: Sequence[Outcome], about: Mapping[str, Any]) -> str:
    """The machine, and one table of everything."""
    rows = []
    for outcome in outcomes:
        found = outcome.found if isinstance(outcome.found, dict) else {"": outcome.found}
        if outcome.trouble is not None:
            found = {"not done": outcome.trouble.splitlines()[0]}
        rows += [[outcome.part, name, _text(value)] for name, value in found.items()]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    seconds = sum(outcome.seconds for outcome in outcomes)
    software = f"Driver {about['driver']}, CUDA {about['cuda']}, Python {about['python']}, {versions}"
    lines = [
        f"# {about['device_name']}",
        f"{software}; {about['dtype']}; {seconds:.0f} seconds. Made by",
        f"    {about['made_by']}",
        markdown_table(["part", "", "found"], rows, numbers=False),
    ]
    return "\n\n".join(lines) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, dict) and "ratio" in value:
        peak = f", {value['peak_bytes'] / 1e9:.3g} GB" if "peak_bytes" in value else ""
        return f"{1e3 * value['seconds']:.3g} ms, ratio {ratio(value)}{peak}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(entry)}" for name, entry in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def machine_of(device: str, small: bool, arguments: Sequence[str]) -> dict[str, Any]:
    """The card, its driver and all versions."""
    known = machine(Settings(not small, torch.device(device), torch.bfloat16))
    made_by = shlex.join(["python", "-m", "benchmarks.gpu_day", *arguments])
    return {**known, "driver": _driver(), "cuda": torch.version.cuda, "system": platform.platform(), "made_by": made_by}


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0, help="after this time, nothing more is measured")
    parser.add_argument("--out", type=Path, help="a folder for the results (default: benchmarks/results/DEVICE-day)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--small", action="store_true", help="a rehearsal, in sizes that tell nothing about a GPU")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use; --device cpu --small is a rehearsal without one")
    out = given.out or HOME / "benchmarks" / "results" / f"{given.device}-day"
    out.mkdir(parents=True, exist_ok=True)
    about = machine_of(given.device, given.small, arguments)
    outcomes = day(parts(given.device, given.small), given.minutes, out, about)
    sys.stdout.write(page(outcomes, about))
    return int(any(outcome.trouble is not None for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
