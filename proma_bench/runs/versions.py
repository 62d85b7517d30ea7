"""The versions that a run was started with, and those that it was resumed with: its numbers depend on both."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from typing import Any

import proma_bench

_PACKAGES = ("torch", "numpy", "scikit-learn", "gymnasium", "transformers", "reasoning_gym")


def installed() -> dict[str, str]:
    """Versions of Python, this package and the others that decide the numbers."""
    versions = {"python": platform.python_version(), "proma-bench": proma_bench.__version__}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def recorded(config: dict[str, Any]) -> list[dict[str, Any]]:
    """What ``config.json`` says, the start first; a strange entry is left out."""
    resumed = config.get("resumed")
    later = [one.get("versions") for one in resumed if isinstance(one, dict)] if isinstance(resumed, list) else []
    return [versions for versions in (config.get("versions"), *later) if isinstance(versions, dict)]


def changes(config: dict[str, Any]) -> str | None:
    """What is another version now than at the run's start, in words; None where nothing is."""
    now, (start, *_) = installed(), [*recorded(config), {}]
    other = [f"{name} {now[name]} instead of {start[name]}" for name in now if now[name] != start.get(name, now[name])]
    return ", ".join(other) or None


def with_present(config: dict[str, Any], step: int) -> dict[str, Any]:
    """The config with an entry in ``resumed`` where the versions are not those of the last entry."""
    now, (*_, last) = installed(), [{}, *recorded(config)]
    if all(now[name] == last.get(name, now[name]) for name in now):
        return config
    earlier = config.get("resumed")
    return {**config, "resumed": [*(earlier if isinstance(earlier, list) else []), {"step": step, "versions": now}]}
