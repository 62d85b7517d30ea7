"""Optimizer steps a second of every tier that is there, with every method: sampling, update, metrics and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.published import check_no_gross_regression
from benchmarks.settings import Settings
from proma_bench.errors import RunError, UsageError
from proma_bench.experiments.training import Training
from proma_bench.learning.methods import METHODS
from proma_bench.tiers import TIERS

BASELINE = "REINFORCE"
NEEDS_GPU = {"llm"}
LEARNING_RATE = 1e-9  # all methods stay at the same policy, so that all have the same sequences to work on
NAMES = sorted(TIERS)


def batches(tier: str) -> tuple[dict[str, Callable[[], object]], int]:
    """For each method, a call that samples a batch and takes its optimizer steps; and how many steps that is."""
    calls: dict[str, Callable[[], object]] = {}
    for method in METHODS:
        config = TIERS[tier](method=method, steps=10**9, learning_rate=LEARNING_RATE)
        training = Training(config)
        calls[method.upper()] = lambda training=training: list(training.batch())
    return calls, config.steps_per_batch


@pytest.mark.parametrize("tier", NAMES)
def test_throughput(tier: str, compare: Any, benchmark: Any, settings: Settings) -> None:
    if tier in NEEDS_GPU and settings.device.type == "cpu":
        pytest.skip(f"the {tier} tier is measured on a GPU")
    try:
        calls, steps = batches(tier)
    except (ImportError, OSError, RunError, UsageError) as error:
        pytest.skip(f"the {tier} tier is not available here: {error}")
    compare(f"throughput: {tier}", "throughput", calls, BASELINE, tier=tier, steps_per_batch=steps)


@pytest.mark.parametrize("tier", NAMES)
def test_throughput_has_not_grossly_regressed(tier: str, published: Any, measured: Any) -> None:
    check_no_gross_regression(f"throughput: {tier}", measured, published)
