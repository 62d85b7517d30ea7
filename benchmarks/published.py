"""The results that are stored in ``benchmarks/results``, and the gate that compares a run with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parent / "results"
GROSS = 1.5  # times the published ratio: what the noise of a shared machine does not reach, and a lost fast path does


def stored_files(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The contents of the stored files, oldest first; empty ones are left out."""
    contents = [json.loads(text) for path in folder.glob("*.json") if (text := path.read_text().strip())]
    return sorted(contents, key=lambda content: content["datetime"])


def published_ratios(device: str, folder: Path = RESULTS) -> dict[str, dict[str, float]]:
    """The ratios to the baseline by case and contender, measured on a device of this kind; the newest count."""
    ratios: dict[str, dict[str, float]] = {}
    for content in stored_files(folder):
        for info in infos(content):
            if info["device"] == device and "contenders" in info:
                ratios[info["case"]] = {name: entry["ratio"] for name, entry in info["contenders"].items()}
    return ratios


def infos(content: dict[str, Any]) -> list[dict[str, Any]]:
    """What the suites stored of each case in one results file."""
    return [benchmark["extra_info"] for benchmark in content["benchmarks"] if "case" in benchmark["extra_info"]]


def check_no_gross_regression(case: str, measured: Mapping[str, Any], published: Mapping[str, Any]) -> None:
    """Skip where there is nothing to compare, fail where a contender of ours is much slower than published.

    Both sides are ratios to a baseline that was measured in the same process as the contender.
    """
    if case not in measured:
        pytest.skip(f"{case}: not measured in this run")
    if case not in published:
        pytest.skip(f"{case}: no ratio is published for this case and kind of device")
    for name, entry in measured[case]["contenders"].items():
        if name.startswith("PROMA") and name in published[case]:
            limit = GROSS * published[case][name]
            assert entry["ratio"] <= limit, (
                f"{case}, {name}: {entry['ratio']:.2f} times {measured[case]['baseline']}; "
                f"published {published[case][name]:.2f}, allowed {limit:.2f}"
            )
