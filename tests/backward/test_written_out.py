"""Each form of sequence gradients does what the written-out ones would do."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from made_up_factors import KINDS, SEQUENCES, made_up
from torch import Tensor

from proma_bench.backward.factors import OuterProducts, RaggedProducts, Scattered

SHAPES = [(5, 6), (7, 3)]  # wider on either side: the narrower one is weighted
WEIGHTS = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_any_range_of_rows_is_written_or_added(kind: str, shape: tuple[int, int], add: bool) -> None:
    factors, seq_grads = made_up(kind, shape)
    for start, stop in combinations(range(shape[0] + 1), 2):
        before = torch.full((SEQUENCES, stop - start, shape[1]), 7.0, dtype=torch.float64)
        written, total = before.clone(), before[0].clone()
        factors.write_rows(written, start, add=add)
        close(written, seq_grads[:, start:stop] + before * add)
        factors.weighted_sum(total, WEIGHTS, start, add=add)
        close(total, torch.tensordot(WEIGHTS, seq_grads[:, start:stop], dims=1) + before[0] * add)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_in_the_memory_before_does_not_matter(kind: str) -> None:
    """The buffer is used again without being cleared, and zero times NaN is NaN."""
    factors, seq_grads = made_up(kind, (5, 6))
    written, total = torch.full_like(seq_grads, torch.nan), torch.full((5, 6), torch.nan, dtype=torch.float64)
    factors.write_rows(written, 0, add=False)
    factors.weighted_sum(total, WEIGHTS, 0, add=False)
    close(written, seq_grads)
    close(total, torch.tensordot(WEIGHTS, seq_grads, dims=1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["outer", "ragged"])
def test_products_of_pairs_of_tokens_are_gram_matrix_and_overlaps(kind: str, shape: tuple[int, int]) -> None:
    factors, seq_grads = made_up(kind, shape)
    running = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    close(factors.token_gram(), seq_grads.flatten(1) @ seq_grads.flatten(1).T)
    close(factors.token_overlap(running), seq_grads.flatten(1) @ running.flatten())


@pytest.mark.parametrize("kind", ["outer", "ragged"])
def test_the_factors_of_some_sequences(kind: str) -> None:
    factors, seq_grads = made_up(kind, (5, 6))
    for first, last in combinations(range(SEQUENCES + 1), 2):
        left, right, ids = factors.rows(first, last)
        for i in range(SEQUENCES):
            own, wanted = ids == i, seq_grads[i] if first <= i < last else torch.zeros_like(seq_grads[i])
            close(left[own].T @ right[own], wanted)


def test_factors_are_kept_in_the_type_that_is_computed_in() -> None:
    rows, ids = torch.ones(2, 3, 4, dtype=torch.bfloat16), torch.zeros(2, 3, dtype=torch.long)
    flat = RaggedProducts(rows[0], rows[1], ids[0], [0, 3], torch.float32)
    outer, scattered = OuterProducts(rows, rows, torch.float32), Scattered(ids, rows, torch.float32)
    for kept in (outer.left, outer.right, flat.left, flat.right, scattered.grads):
        assert kept.dtype == torch.float32
