"""The literal step of the library against the oracle's, which shares no code with it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import literal_step

from proma_bench import ProjectionConfig, accumulate

CLAMPS, SHRINKAGES = st.sampled_from([None, 0.0, 0.5, 2.0]), st.sampled_from([0.0, 0.3, 1.0])


@pytest.mark.parametrize("method", ["exact", "qr", "iterative", "ridge"])
@given(seed=st.integers(0, 2**31), max_removed=CLAMPS, shrinkage=SHRINKAGES, sweeps=st.integers(1, 4))
def test_a_step_equals_the_oracle(
    method: str, seed: int, max_removed: float | None, shrinkage: float, sweeps: int
) -> None:
    """Some gradients are zero, some are copies; none are nearly dependent, where the rank would be a choice."""
    generator = torch.Generator().manual_seed(seed)
    sequences, width = (int(torch.randint(1, high, (), generator=generator)) for high in (7, 30))
    seq_grads = torch.randn(sequences, 3, width, generator=generator, dtype=torch.float64)
    seq_grads[torch.rand(sequences, generator=generator) < 0.2] = 0
    if sequences > 2 and seed % 3 == 0:
        seq_grads[1] = -2 * seq_grads[0]
    running = torch.randn(3, width, generator=generator, dtype=torch.float64) * 10 ** float(seed % 7 - 3)
    advantages = torch.randn(sequences, generator=generator, dtype=torch.float64)
    config = ProjectionConfig(method, sweeps, max_removed, shrinkage)
    of_oracle = ProjectionConfig("exact" if method == "qr" else method, sweeps, max_removed, shrinkage)
    for before in (None, running):
        wanted = literal_step(before, seq_grads, advantages, of_oracle)
        found = accumulate(before, seq_grads, advantages, config)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9 * max(1.0, float(running.norm())))
