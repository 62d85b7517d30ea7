"""The model of memory runs, and its parts are those that are known without it."""

from __future__ import annotations

import torch

from benchmarks import device_memory
from benchmarks.device_memory import Live, memory, table


def test_living_tensors_are_counted_once() -> None:
    with Live() as live:
        first = torch.ones(1000)
        view = first.view(10, 100)[1]
        second = first + 1
        assert live.bytes == 8000
        del first, second
        assert live.bytes == 4000, "a view keeps its memory"
        del view
    assert live.bytes == 0 and live.peak == 8000


def test_a_step_of_two_layers() -> None:
    found = memory(layers=2, prompt=16, answer=32, card=24)
    weights = found.stays["weights, float32"]
    assert weights == 4 * (151_936 * 1024 + 2 * 15_730_944 + 1024)
    assert found.stays["running gradient, float32"] == weights
    assert 2 * weights <= found.stays["AdamW's moments, float32"] <= 2 * weights + 1000  # and numbers of steps
    assert found.stays["frozen copy, bfloat16"] == weights / 2
    assert found.stays["policy before the step, for KL"] == 2 * 1024 * (512 * 32 + 151_936)
    assert found.training > sum(found.stays.values()) + found.logits
    assert found.training < found.plain + weights, "PROMA makes no second gradient"
    assert f"| **together, in a training pass** | {found.training / 1e9:.2f} |" in table({"here": found})


def test_the_page_has_a_place_for_the_table() -> None:
    assert "<!-- device memory -->" in device_memory.PAGE.read_text()
