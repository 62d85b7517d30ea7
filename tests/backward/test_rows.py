"""The sequence of each row is read off the digits of its seeds, or the row is seen to mix several."""

from __future__ import annotations

import pytest
import torch
from between import Between, on
from torch import Tensor
from trust import WAYS, Case, assert_outcome, double

from proma_bench.backward.layout import Layout
from proma_bench.backward.rows import digits_base, layout_of, moving_layout, owners, row_kind, seed_weights, sketch


def gradient(parts: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Rows ``[R]`` of the gradient for seeds of one, and for each seed vector, from the parts ``[B, R]``."""
    base = digits_base(parts.dtype)
    return parts.sum(0), [weights.to(parts.dtype) @ parts for weights in seed_weights(len(parts), base)]


def found(parts: Tensor) -> Tensor | None:
    plain, weighted = gradient(parts)
    return owners(plain, weighted, len(parts), digits_base(parts.dtype))


def owned(ids: Tensor, sequences: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Parts of rows each of which belongs to one sequence."""
    values = torch.randn(len(ids), generator=torch.Generator().manual_seed(0)).to(dtype) + 3
    return torch.zeros(sequences, len(ids), dtype=dtype).scatter_(0, ids.unsqueeze(0), values.unsqueeze(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sequences", [2, 3, 4, 5, 16, 17, 31, 32, 33, 64, 65, 1024, 1025])
def test_each_row_has_its_sequence(sequences: int, dtype: torch.dtype) -> None:
    ids = torch.cat([torch.arange(sequences), torch.tensor([sequences - 1, 0])])
    result = found(owned(ids, sequences, dtype))
    assert result is not None and torch.equal(result, ids)


def test_a_sum_that_is_a_power_of_two_by_chance_is_not_taken_for_a_sequence() -> None:
    """A mixture of sequences 0 and 3 whose digit is that of sequence 1: only the witness tells."""
    first, third, between = 1.0, 2.0**-3, 2.0**-1
    share = (between - third) / (first - third)  # of sequence 0, so that the sum's digit is that of sequence 1
    parts = torch.zeros(4, 3, dtype=torch.float64)
    parts[0, 0], parts[3, 0] = share, 1 - share
    parts[1, 1] = parts[2, 2] = 1.0
    plain, weighted = gradient(parts)
    assert torch.equal((weighted[1] / plain).log2(), torch.tensor([-1.0, -1.0, -2.0], dtype=torch.float64))
    assert owners(plain, weighted, 4, digits_base(torch.float64)) is None


@pytest.mark.parametrize(
    ("sequences", "base", "passes"), [(1, 32, 0), (2, 32, 2), (32, 32, 2), (33, 32, 3), (17, 4, 4)]
)
def test_there_is_a_pass_for_each_digit_and_a_witness(sequences: int, base: int, passes: int) -> None:
    weights = seed_weights(sequences, base)
    assert len(weights) == passes
    numbers = sum((-vector.log2() * base**place for place, vector in enumerate(weights[1:])), torch.zeros(sequences))
    assert passes == 0 or torch.equal(numbers.long(), torch.arange(sequences))


def test_a_row_without_a_gradient_is_anybodys() -> None:
    parts = owned(torch.tensor([0, 1, 2, 1]), 3)
    parts[:, 2] = 0
    parts[:, 3] *= 2.0**-50  # as small as rounding, but its ratios are clean
    result = found(parts)
    assert result is not None and result.tolist() == [0, 1, -1, 1]
    parts[1, 1] *= 2.0**-15  # small, and no rounding
    assert (result := found(parts)) is not None and result.tolist() == [0, 1, -1, 1]
    assert (result := found(torch.zeros(3, 4))) is not None and result.tolist() == [-1] * 4
    assert (result := found(torch.zeros(3, 0))) is not None and result.tolist() == []


@pytest.mark.parametrize(
    ("row", "sequences"),
    [
        ({0: 1.0, 1: 1.0}, 4),
        ({0: 1.0, 1: 0.001}, 4),
        ({0: 1.0, 1: -1.0}, 4),  # cancels where all sequences have the same weight
        ({0: -1.0, 3: 2.0}, 4),  # a ratio below zero
        ({0: 3.0, 1: -2.0}, 4),  # a ratio of two
        ({0: 1.0, 32: 1.0}, 33),  # which differ in the second digit alone
        ({1: 1.0, 33: 1.0}, 34),
        ({0: 1.0, 32: -1.0}, 33),
    ],
    ids=str,
)
def test_a_row_of_several_sequences_is_mixed(row: dict[int, float], sequences: int) -> None:
    parts = owned(torch.arange(sequences), sequences)
    parts[:, 1] = 0
    for sequence, value in row.items():
        parts[sequence, 1] = value
    assert found(parts) is None


def test_a_number_that_no_sequence_has_is_a_mixture() -> None:
    plain = torch.ones(2, dtype=torch.float64)
    for exponent, sequences, base in [(3, 3, 32), (4, 32, 4), (4, 4, 4), (-1, 4, 32)]:
        assert owners(plain, [plain, torch.tensor([1.0, 2.0**-exponent], dtype=torch.float64)], sequences, base) is None
    witness = seed_weights(3, 32)[0][[0, 2]]
    last = owners(plain, [witness, torch.tensor([1.0, 2.0**-2], dtype=torch.float64)], 3, 32)
    assert owners(plain, [witness.flip(0), torch.tensor([1.0, 2.0**-2], dtype=torch.float64)], 3, 32) is None
    assert last is not None and last.tolist() == [0, 2]


@pytest.mark.parametrize(("dtype", "exact", "mixed"), [(torch.float64, 1e-8, 1e-5), (torch.float32, 1e-4, 1e-2)])
def test_a_ratio_may_be_off_by_rounding_alone(dtype: torch.dtype, exact: float, mixed: float) -> None:
    plain, half = torch.ones(2, dtype=dtype), torch.full((2,), 0.5, dtype=dtype)
    witness = seed_weights(2, 32)[0][[1, 1]].to(dtype)
    for sign in (-1, 1):
        assert owners(plain, [witness, half * (1 + sign * exact)], 2, 32) is not None
        assert owners(plain, [witness, half * (1 + sign * mixed)], 2, 32) is None


def test_a_sketch_has_weights_of_one_size_that_differ() -> None:
    weights = sketch(torch.eye(50, dtype=torch.float64), 1)
    assert weights.min() >= 0.5 and weights.max() < 1.5 and len(weights.unique()) == 50
    rows = torch.randn(2, 3, 4)
    assert sketch(rows, 1).shape == (2, 3) and torch.equal(sketch(rows[0, 0], 1), rows[0, 0])
    assert torch.equal(sketch(rows[0], 2), rows[0])


B2T3 = torch.arange(2).repeat_interleave(3)


@pytest.mark.parametrize(
    ("ids", "shape", "layout", "kind"),
    [
        ([0, 1, 2], (3, 5), Layout(3), "rows"),
        ([0, -1, 2], (3, 5), Layout(3), "rows"),
        ([0, 2, 1], (3, 5), Layout(3), "moving"),
        ([[0, 0], [1, 1], [2, 2]], (3, 2, 5), Layout(3), "rows"),
        ([0, 0, 1, 1], (4, 5), Layout(2), "flat"),
        ([0, 1, 0, 1], (4, 5), Layout(2), "turned"),
        ([0, 1, 1, 0], (4, 5), Layout(2), "moving"),
        ([0, -1, -1, 1], (4, 5), Layout(2), "unknown"),
        ([[0, 1], [0, 1], [0, 1]], (3, 2, 5), Layout(2), "second"),
        ([[0, 1], [0, 1]], (2, 2, 5), Layout(2), "second"),
        ([[0, 1], [1, 0], [0, 1]], (3, 2, 5), Layout(2), "moving"),
        ([-1, -1, -1], (3, 5), Layout(3), "unknown"),
        (None, (3, 5), Layout(3), "mixed"),
        ([[0, 0, 1]], (1, 3, 5), Layout(2, torch.tensor([[0, 0, 1]])), "rows"),
        ([0, 0, 1], (3, 5), Layout(2, torch.tensor([[0, 0, 1]])), "flat"),
        ([0, 1, 1], (3, 5), Layout(2, torch.tensor([[0, 0, 1]])), "moving"),
        ([[0], [0], [1]], (3, 1, 5), Layout(2, torch.tensor([[0, 0, 1]])), "flat"),
        ([0, 1], (2, 5), Layout(2, torch.tensor([0, 0, 1])), "sums"),
        ([1, 0], (2, 5), Layout(2, torch.tensor([1, 0])), "rows"),
        ([0, 1], (2, 5), Layout(2, torch.tensor([1, 0])), "sums"),
        ([0, 1], (2, 5), Layout(2, torch.tensor([0, 1])), "moving"),  # rows, or sums of them: they are the same here
    ],
)
def test_rows_are_where_the_layout_says_or_move(
    ids: list[int] | None, shape: tuple[int, ...], layout: Layout, kind: str
) -> None:
    result = None if ids is None else torch.tensor(ids)
    assert row_kind(result, torch.Size(shape), layout) == kind
    if kind in ("rows", "flat", "second", "sums"):
        at = layout_of(kind, torch.Size(shape), layout)  # type: ignore[arg-type]
        assert at is not None and result is not None and at.agrees(result)


def test_rows_that_move_have_the_sequences_that_were_found() -> None:
    rows = torch.ones(3, 2, 5)
    per_row = moving_layout(torch.tensor([[1, 1], [0, -1], [-1, -1]]), 2)
    assert per_row.row_axes == 1 and per_row.only(rows, 1)[:, 0, 0].tolist() == [1, 0, 0]
    per_token = moving_layout(torch.tensor([[1, 1], [0, 1], [-1, 0]]), 2)
    assert per_token.row_axes == 2 and per_token.only(rows, 1)[..., 0].tolist() == [[1, 1], [0, 1], [0, 0]]


def many(sequences: int) -> Tensor:
    return torch.randn(sequences, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class Sorted(Between):
    """The rows are sorted for the layers."""

    def forward(self, rows: Tensor) -> Tensor:
        order = rows[:, 0].argsort()
        return super().forward(rows[order])[order.argsort()]


def sorted_rows() -> Case:
    return Case(double(Sorted(torch.clone)), on(many(35)), "right")


def rows_mixed_with_the_one_a_digit_away() -> Case:
    """Sequences 0 and 32 have the same first digit, and so have 1 and 33, and 2 and 34."""
    return Case(double(Between(lambda rows: torch.cat([rows[:32], rows[32:] + rows[:3]]))), on(many(35)), "raised")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", [sorted_rows, rows_mixed_with_the_one_a_digit_away], ids=lambda case: case.__name__)
def test_more_sequences_than_one_pass_tells_apart(case: object, way: str) -> None:
    assert callable(case)
    assert_outcome(case(), way)
