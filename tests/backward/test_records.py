"""What the projection says it has done."""

from __future__ import annotations

import pytest
import torch
from backward_policies import Classifier, initialise, seeded

from proma_bench import ProjectionConfig, Proma
from proma_bench.backward.records import ProjectionRecord, averages


def test_stats() -> None:
    module = initialise(Classifier())
    rows = torch.randn(8, 6, dtype=torch.float64, generator=seeded(0))
    ones = torch.ones(8, dtype=torch.float64)
    with Proma(module, ProjectionConfig("exact", max_removed=None), record=True) as proma:
        proma.backward(module(rows).log_softmax(-1)[:, 0], ones)
        assert proma.stats() == []  # the first microbatch has nothing to project
        before = {name: p.grad.clone() for name, p in module.named_parameters()}
        proma.backward(module(rows).log_softmax(-1)[:, 0], 0 * ones)
        records = {record.parameter: record for record in proma.stats()}
        assert set(records) == set(before)
        for name, parameter in module.named_parameters():
            removed = (before[name] - parameter.grad).norm()
            assert records[name].removed_norm == pytest.approx(float(removed), rel=1e-9)
            assert records[name].removed_ratio == pytest.approx(float(removed / before[name].norm()), rel=1e-9)
            assert records[name].microbatch == 1 and not records[name].clamped
            assert records[name].removed_ratio == pytest.approx(1, rel=1e-6)  # the very same sequences again
        proma.clear_stats()
        assert proma.stats() == []
    with Proma(module) as proma, pytest.raises(RuntimeError, match="record=True"):
        proma.stats()


@pytest.mark.parametrize("advantage", [0.0, 1.0])
@pytest.mark.parametrize("size", [None, 2])
def test_nothing_is_removed_from_a_running_gradient_of_zero(size: int | None, advantage: float) -> None:
    """A share of nothing is zero, not NaN, and no clamp is active, not even one that allows nothing."""
    module = initialise(Classifier())
    rows = torch.randn(8, 6, dtype=torch.float64, generator=seeded(0))
    with Proma(module, record=True) as proma:
        for _ in range(2):
            for parameter in module.parameters():
                parameter.grad = torch.zeros_like(parameter)
            proma.clear_stats()  # counts from 0 again
            advantages = torch.full((8,), advantage, dtype=torch.float64)
            proma.backward(module(rows).log_softmax(-1)[:, 0], advantages, microbatch_size=size)
            first = [record for record in proma.stats() if record.microbatch == 0]
            assert {record.parameter for record in first} == {name for name, _ in module.named_parameters()}
            assert all(record[2:5] == (0.0, 0.0, False) for record in first)


def test_averages_are_over_tensors_and_microbatches() -> None:
    found = averages(
        [
            ProjectionRecord("b", 1, 8.0, 0.5, True, "rows"),
            ProjectionRecord("a", 1, 4.0, 0.5, False, "rows"),
            ProjectionRecord("b", 2, 2.0, 0.25, True, "rows"),
            ProjectionRecord("a", 2, 1.0, 0.0, True, "rows"),
        ]
    )
    assert found == {"removed_ratio": 0.3125, "removed_by_layer": {"a": 0.25, "b": 0.375}, "clamped": 0.75}
    assert averages([]) == {"removed_ratio": 0, "removed_by_layer": {}, "clamped": 0}


def test_what_a_rule_observed_is_averaged_over_everything_and_for_each_tensor() -> None:
    def record(parameter: str, rank: float, noise: float, signal: float) -> ProjectionRecord:
        observed = {"effective_rank": rank, "conflicts": 0.5, "noise": noise, "signal": signal}
        return ProjectionRecord(parameter, 0, 0.0, 0.0, False, "rows", observed)

    found = averages([record("b", 1.0, 6.0, 1.0), record("b", 3.0, 2.0, 1.0), record("a", 5.0, 4.0, -5.0)])
    assert found["effective_rank"] == 3 and found["noise_scale"] is None
    assert found["effective_rank_by_layer"] == {"a": 5, "b": 2}
    assert found["noise_scale_by_layer"] == {"a": None, "b": 4}
    assert found["conflicts_by_layer"] == {"a": 0.5, "b": 0.5}
