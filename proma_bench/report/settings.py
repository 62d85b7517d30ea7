"""What a tier's runs were made with: their settings, their versions, and the commands that make them again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proma_bench.errors import RunError
from proma_bench.learning.config import defaults
from proma_bench.learning.methods import METHODS
from proma_bench.runs.directory import ABOUT, Run, read_json
from proma_bench.runs.matching import MATCHED
from proma_bench.runs.versions import recorded
from proma_bench.tiers import TIERS


def settings(runs: Sequence[Run]) -> dict[str, str]:
    """Each setting with its value, or its values where the runs differ."""
    return _values([{name: run.config[name] for name in run.config.keys() - ABOUT} for run in runs])


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run, with the defaults of those that there were not yet when it was started."""
    return {**_usual(config), **config}


def _usual(config: dict[str, Any]) -> dict[str, Any]:
    """The defaults of a run's tier; none of a tier that is not known here."""
    known = TIERS.get(config["tier"])
    return defaults(known) if known else {}


def versions(runs: Sequence[Run]) -> dict[str, str]:
    """Each package with its version, or its versions where the runs differ."""
    return _values([versions for run in runs for versions in recorded(run.config)])


def _values(tables: Sequence[dict[str, Any]]) -> dict[str, str]:
    names = sorted({name for table in tables for name in table})
    return {name: _distinct([table[name] for table in tables if name in table]) for name in names}


def _distinct(values: Sequence[Any], most: int = 12) -> str:
    """The distinct values in order; numbers in a row as a range."""
    texts = list(dict.fromkeys(json.dumps(value) for value in values))
    if len(texts) > 2 and all(type(value) is int for value in values):
        low, high = min(values), max(values)
        if len(texts) == high - low + 1:
            return f"{low} to {high}"
    rest = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return ", ".join([text.strip('"')[:200] for text in texts[:most]] + rest)


def commands(root: Path, runs: Sequence[Run]) -> list[str]:
    """The command lines that make the runs again: the ladder's where there is one, else one per run."""
    try:
        plan = read_json(root / "ladder.json")
        options = {"--tiers": ",".join(plan["tiers"]), "--budget": plan["budget"], "--seeds": plan["seeds"]}
        if model := plan.get("model"):
            options["--model"] = model
        if plan["methods"] != list(METHODS):
            options["--methods"] = ",".join(plan["methods"])
    except (RunError, KeyError, TypeError, RecursionError):
        return [run_command(run.config) for run in runs]
    words = [f"{name} {shlex.quote(str(value))}" for name, value in options.items()]
    return [" ".join(["proma-bench ladder", *words, *(["--match-kl"] if plan.get(MATCHED) else [])])]


def run_command(config: dict[str, Any]) -> str:
    """``proma-bench run`` with the method, the seed, and every other setting that is not the tier's default."""
    words = ["proma-bench", "run", str(config["tier"])]
    usual = _usual(config)
    for name, value in config.items():
        implied = name not in ("method", "seed") and name in usual and usual[name] == value
        if name in ("tier", *ABOUT) or implied:
            continue
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, dict):
            words += [f"--{option}", *(str(word) for pair in value.items() for word in pair)]
        else:
            words += [f"--{option}", str(value)]
    return shlex.join(words)
