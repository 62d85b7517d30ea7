"""From factors to Gram matrix, overlaps and sums, against sequence gradients that are written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from made_up_factors import KINDS, SEQUENCES, MadeUp, made_up
from torch import Tensor

from proma_bench.backward.measure import Measured, Workspace, add_weighted, measure, plain_gradient

SHAPE, LARGE = (7, 3), (40, 3)  # the second has more rows than there are tokens
ADVANTAGES = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
ROW = (SEQUENCES + 1) * SHAPE[1] * 8  # bytes of one row of S and of the running gradient


class Watched(Workspace):
    """Notes how far into its buffer anybody has looked."""

    furthest = 0

    def view(self, elements: int, like: Tensor) -> Tensor:
        self.furthest = max(self.furthest, (self.used + elements) * like.element_size())
        return super().view(elements, like)


def drawn(shape: tuple[int, ...], seed: int = 9, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def total(uses: list[MadeUp]) -> Tensor:
    return torch.stack([use.seq_grads for use in uses]).sum(dim=0)


def measured(uses: list[MadeUp], running: Tensor | None, workspace: Workspace, way: Any = "auto") -> Measured:
    shape = uses[0].seq_grads.shape[1:]
    return measure([use.factors for use in uses], running, shape, ADVANTAGES, workspace, way)


def assert_right(found: Measured, uses: list[MadeUp], running: Tensor | None) -> None:
    rows = total(uses).flatten(1)
    overlap = torch.zeros(SEQUENCES).double() if running is None else rows @ running.double().flatten()
    torch.testing.assert_close(found.gram, rows @ rows.T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.overlap, overlap, rtol=1e-10, atol=1e-10)


def assert_adds_up(found: Measured, uses: list[MadeUp], dtype: torch.dtype = torch.float64) -> None:
    shape = uses[0].seq_grads.shape[1:]
    before, tolerance = drawn(shape, 5, dtype), 1e-10 if dtype == torch.float64 else 1e-4
    out = before.clone()
    add_weighted(found, ADVANTAGES, out)
    wanted = before.double() + torch.tensordot(ADVANTAGES, total(uses), dims=1)
    torch.testing.assert_close(out.double(), wanted, rtol=tolerance, atol=tolerance)


USES = [(kind,) for kind in KINDS] + [("scattered", "scattered"), ("scattered", "outer", "dense"), ("outer", "ragged")]


@pytest.mark.parametrize("running", [None, torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("rows_of_room", [0, 2, 3, 5, 6, 100])
@pytest.mark.parametrize("shape", [SHAPE, LARGE])
@pytest.mark.parametrize("kinds", USES, ids="+".join)
def test_measured_is_what_written_out_gradients_give(
    kinds: tuple[str, ...], shape: tuple[int, int], rows_of_room: int, running: torch.dtype | None
) -> None:
    """Whatever room there is, and with several uses of one tensor, whose cross terms count."""
    uses = [made_up(kind, shape, seed=number) for number, kind in enumerate(kinds)]
    before = None if running is None else drawn(shape, dtype=running)
    for way in ("rows", "tokens", "auto"):
        found = measured(uses, before, Workspace(rows_of_room * ROW), way)
        assert_right(found, uses, before)
        for dtype in (torch.float64, torch.float32):  # the running gradient may be narrower than the computation
            assert_adds_up(found, uses, dtype)


def test_the_ways_are_told_apart() -> None:
    def way(*kinds: str, shape: tuple[int, int] = SHAPE, method: Any = "auto", rows_of_room: int = 100) -> str:
        uses = [made_up(kind, shape) for kind in kinds]
        return measured(uses, drawn(shape), Workspace(rows_of_room * ROW), method).gram_method

    assert way("dense", method="tokens") == "dense"
    assert [way(kind, method="tokens") for kind in ("outer", "ragged")] == ["tokens", "tokens"]
    assert way("outer", "outer", method="tokens") == "tokens"  # as one use with the tokens of both
    assert way("ragged", "ragged", method="tokens") == "rows"  # pairs of tokens of both uses would be missing
    assert way("outer", method="rows") == "rows"
    assert way("outer", method="rows", rows_of_room=5) == "rows, 2 of 7 kept"
    assert way("outer", shape=(64, 64), method="auto") == "tokens"
    assert way("scattered", shape=LARGE) == "rows of tokens that occur"
    assert way("scattered", shape=(12, 3)) == "rows"  # as many tokens as rows
    assert way("scattered", "scattered", shape=(24, 3)) == "rows"
    assert way("scattered", "outer", shape=LARGE) == "rows"


@pytest.mark.parametrize(("rows_of_room", "tensors"), [(2, 1), (4, 1), (7, 1), (14, 2), (20, 3)])
def test_tensors_that_share_a_workspace_stay_within_it_and_keep_what_is_theirs(rows_of_room: int, tensors: int) -> None:
    """Blocks that are kept are read when all of the tensors have been measured."""
    workspace = Watched(rows_of_room * ROW)
    uses = [[made_up("outer", SHAPE, seed=seed)] for seed in range(3)]
    found = [measured(uses[0], drawn(SHAPE), workspace, "rows")]
    while len(found) < 3 and workspace.has_room((SEQUENCES + 1) * math.prod(SHAPE), ADVANTAGES):
        found.append(measured(uses[len(found)], drawn(SHAPE), workspace, "rows"))
    assert len(found) == tensors and workspace.furthest <= workspace.limit(ADVANTAGES)
    for one, own in zip(found, uses, strict=False):
        assert one.kept_rows > 0 and one.is_partly_kept == (one.kept_rows < SHAPE[0])
        assert_adds_up(one, own)


@pytest.mark.parametrize("kinds", [(), *USES], ids="+".join)
def test_the_plain_gradient_is_the_weighted_sum(kinds: tuple[str, ...]) -> None:
    uses = [made_up(kind, SHAPE, seed=number) for number, kind in enumerate(kinds)]
    found = plain_gradient([use.factors for use in uses], ADVANTAGES, torch.Size(SHAPE))
    wanted = torch.tensordot(ADVANTAGES, total(uses), dims=1) if uses else torch.zeros(SHAPE).double()
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
