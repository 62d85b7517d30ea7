"""Every causal language model class of transformers, tiny and random: its gradients are right, or it is refused."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
import zoo

pytestmark = pytest.mark.zoo


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where outcomes are kept for the last test: a folder that pytest's processes share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "zoo"
    folder.mkdir(exist_ok=True)
    return folder


def kept_outcome(name: str, folder: Path) -> zoo.Outcome:
    """The outcome of a model, computed if no test has done that before."""
    path = folder / f"{name}.json"
    if path.exists():
        return zoo.Outcome(*json.loads(path.read_text()))
    found = zoo.outcome(name)
    written = path.with_suffix(f".{os.getpid()}")
    written.write_text(json.dumps(found))
    written.rename(path)  # all of it or nothing, as others may look
    return found


@pytest.mark.parametrize("name", zoo.names())
def test_is_right_or_refused(name: str, outcomes: Path) -> None:
    found = kept_outcome(name, outcomes)
    assert found.verdict != "wrong", f"{found.reason} (relative error {found.error})"
    if found.verdict == "not built":
        pytest.skip(found.reason)


def test_most_are_right(outcomes: Path) -> None:
    found = [kept_outcome(name, outcomes) for name in zoo.names()]
    counts = Counter(outcome.verdict for outcome in found)
    built = len(found) - counts["not built"]
    assert built >= 0.95 * len(found), counts
    assert counts["wrong"] == 0, counts
    assert counts["right"] >= 0.85 * built, counts
    assert counts["right"] + counts["with autograd"] >= 0.95 * built, counts
