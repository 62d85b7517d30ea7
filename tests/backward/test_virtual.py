"""Several microbatches in one backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backward_policies import CONFIGS, MICROS, Classifier, TokenPolicy, initialise, seeded
from oracle import Micro, assert_gradients, oracle_gradients

from proma_bench import ProjectionConfig, Proma


@pytest.mark.parametrize("sizes", [(2, None), (3, 7), (1, 9)], ids=str)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.method}-{config.max_removed}")
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_virtual_microbatches_are_microbatches(layout: str, config: ProjectionConfig, sizes: tuple[int, Any]) -> None:
    """One backward pass over several microbatches equals one each, whether or not there was a gradient before."""
    size, workspace = sizes[0], {} if sizes[1] is None else {"workspace_bytes": 2 ** sizes[1]}
    module = initialise(TokenPolicy())
    pieces = []
    for micro in MICROS:
        for start in range(0, len(micro.lengths), size):
            rows = range(start, min(start + size, len(micro.lengths)))
            alone = lambda m, i, micro=micro, rows=rows: micro.alone(m, rows[i])  # noqa: E731
            pieces.append(Micro(alone, micro.advantages[list(rows)]))
    wanted = oracle_gradients(module, pieces, config)
    with Proma(module, config, record=True, **workspace) as proma:
        for micro in MICROS:
            log_probs, ids = getattr(micro, layout)(module)
            proma.backward(log_probs, micro.advantages, ids, microbatch_size=size)
        records = proma.stats()
    assert_gradients(module, wanted, 1e-9)
    assert {record.microbatch for record in records} == set(range(1, len(pieces)))


def test_virtual_microbatches_have_the_same_stats() -> None:
    module = initialise(Classifier())
    rows = torch.randn(12, 6, dtype=torch.float64, generator=seeded(0))
    advantages = torch.randn(12, dtype=torch.float64, generator=seeded(1))

    def stats(passes: int) -> list[Any]:
        module.zero_grad()
        with Proma(module, ProjectionConfig(), record=True) as proma:
            for part, weights in zip(rows.chunk(passes), advantages.chunk(passes), strict=True):
                proma.backward(module(part).log_softmax(-1)[:, 0], weights, microbatch_size=2)
            return sorted(proma.stats())

    separate, joined = stats(6), stats(1)
    assert [row[:2] for row in separate] == [row[:2] for row in joined]
    for first, second in zip(separate, joined, strict=True):
        assert first.removed_norm == pytest.approx(second.removed_norm, rel=1e-9)
        assert first.removed_ratio == pytest.approx(second.removed_ratio, rel=1e-9)
        assert first.clamped == second.clamped
    with Proma(module) as proma, pytest.raises(ValueError, match="microbatch_size must be at least 1, got 0"):
        proma.backward(module(rows)[:, 0], advantages, microbatch_size=0)
