"""PROMA beside other ways to per-sequence gradients: time and memory of a microbatch, and which models each can do.

``tox -e peers`` has the packages; where only some are installed, the others are listed as missing.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from benchmarks.conftest import SETTINGS
from benchmarks.memory import peak_bytes
from benchmarks.peer_page import RIGHT
from benchmarks.peer_works import PeerWork, kinds, timed_works
from benchmarks.peers import CONTENDERS, PLAIN, SMALL_WORKSPACE, Contender, Step, verdicts
from benchmarks.settings import Settings
from benchmarks.works import sharing_copy

if not any(importlib.util.find_spec(package) for package in ("opacus", "torchjd", "backpack")):
    pytest.skip("no other package is installed: tox -e peers", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages: fallbacks, hooks that they find unusual


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    settings = metafunc.config.stash[SETTINGS]
    for name, cases in (("work", timed_works), ("kind", kinds)):
        if name in metafunc.fixturenames:
            found = cases(settings)
            metafunc.parametrize(name, found, ids=[work.name.replace("×", "x") for work in found])


def test_a_microbatch(work: PeerWork, compare: Any, settings: Settings) -> None:
    """Checked first; then whoever has an update to show is timed, right or not, and the page says which."""
    contenders = (*CONTENDERS, SMALL_WORKSPACE)
    found = verdicts(work, contenders)
    ours_are_right(found)
    original = work.module()
    running = [contender for contender in contenders if "error" in found[contender.name]]
    peaks = {
        contender.name: peak_bytes(two_microbatches(work, original, contender), settings.device)
        for contender in running
    }
    steps = {contender.name: in_turn(work, contender.attach(work, sharing_copy(original))) for contender in running}
    compare(f"peers: {work.name}", "peers", steps, PLAIN, verdicts=found, peak_bytes=peaks)


def test_kinds_of_models(kind: PeerWork, benchmark: Any, store: Any) -> None:
    """Who gives what plain autograd gives, one sequence after another, on a tiny model of this kind."""
    found = benchmark.pedantic(verdicts, (kind, CONTENDERS), rounds=1, iterations=1)
    store(f"peers: {kind.name}", "peer kinds", verdicts=found)
    ours_are_right(found)


def ours_are_right(found: dict[str, dict[str, Any]]) -> None:
    for name, verdict in found.items():
        if name.startswith("PROMA"):
            assert verdict.get("error", math.inf) <= RIGHT, f"{name}: {verdict}"


def in_turn(work: PeerWork, step: Step) -> Callable[[], None]:
    """The step of one microbatch, then of the other, and so on."""
    microbatches = itertools.cycle(work.microbatches)
    return lambda: step(next(microbatches))


def two_microbatches(work: PeerWork, original: nn.Module, contender: Contender) -> Callable[[], None]:
    """From no gradient and no workspace to the end of the second microbatch, everything that is allocated counts."""

    def run() -> None:
        step = contender.attach(work, sharing_copy(original))
        for micro in work.microbatches:
            step(micro)

    return run
