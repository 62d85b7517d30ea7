"""What the projection says it has done."""

from __future__ import annotations

import pytest
import torch
from backward_policies import Classifier, initialise, seeded

from proma_bench import ProjectionConfig, Proma


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
