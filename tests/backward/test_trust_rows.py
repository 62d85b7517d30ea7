"""A row belongs to the sequence that it is said to belong to, or the use is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from between import Between, on
from torch import Tensor, nn
from trust import ADVANTAGES, WAYS, X2, Batch, Case, X, assert_outcome, double, in_all_ways, outcome, score

IN_ORDER = X[X[:, 0].argsort()]


def tokens(batch: int, time: int, seed: int = 0, width: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, time, width, generator=generator, dtype=torch.float64)


class Sorting(Between):
    """Rows are sorted for the layers, as for packed recurrent networks, and put back afterwards."""

    def __init__(self) -> None:
        super().__init__(torch.clone)

    def forward(self, rows: Tensor) -> Tensor:
        order = rows[:, 0].argsort()
        return super().forward(rows[order])[order.argsort()]


def sorted_rows() -> Case:
    return Case(double(Sorting()), on(X, X2))


def sorted_rows_after_a_batch_in_order() -> Case:
    return Case(double(Sorting()), on(IN_ORDER, X2))


class Positions(nn.Module):
    """Learned positions, which the whole batch shares."""

    def __init__(self, expanded: bool = False) -> None:
        super().__init__()
        self.table, self.out, self.expanded = nn.Embedding(8, 6), nn.Linear(6, 3), expanded

    def forward(self, rows: Tensor) -> Tensor:
        where = torch.arange(rows.shape[1])
        return self.out(torch.tanh(rows + self.table(where.expand(len(rows), -1) if self.expanded else where)))


def positions_as_many_as_sequences() -> Case:
    return Case(double(Positions()), on(tokens(4, 4), tokens(4, 4, 1)))


def positions() -> Case:
    return Case(double(Positions()), on(tokens(4, 5), tokens(4, 5, 1)))


def positions_in_a_last_short_microbatch() -> Case:
    return Case(double(Positions()), on(tokens(4, 3), tokens(3, 3, 1)))


def expanded_positions() -> Case:
    return Case(double(Positions(expanded=True)), on(tokens(4, 4), tokens(3, 4, 1)), "right")


class Chunked(nn.Module):
    """A head that sees flattened tokens a few at a time, to save memory."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.body, self.head, self.size = nn.Linear(6, 5), nn.Linear(5, 3), size

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.body(rows).tanh()
        return torch.cat([self.head(chunk) for chunk in hidden.flatten(0, 1).split(self.size)]).view(*rows.shape[:2], 3)


def chunks_as_long_as_the_batch() -> Case:
    return Case(double(Chunked(4)), on(tokens(4, 3), tokens(4, 3, 1)))


def chunks() -> Case:
    return Case(double(Chunked(3)), on(tokens(4, 3), tokens(3, 3, 1)))


class TimeFirst(Between):
    def __init__(self) -> None:
        super().__init__(torch.clone)

    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows.transpose(0, 1)).transpose(0, 1)


def time_first_and_square() -> Case:
    return Case(double(TimeFirst()), on(tokens(4, 4), tokens(4, 4, 1)))


def time_first() -> Case:
    return Case(double(TimeFirst()), on(tokens(4, 5), tokens(4, 5, 1)))


def time_first_until_square() -> Case:
    """Sequences that are all of one length, and a last microbatch of as many."""
    return Case(double(TimeFirst()), on(tokens(1, 3), tokens(3, 3, 1)))


class SortedTimeFirst(Between):
    """Time first, and the sequences sorted."""

    def __init__(self) -> None:
        super().__init__(torch.clone)

    def forward(self, rows: Tensor) -> Tensor:
        order = rows[:, 0, 0].argsort()
        return super().forward(rows.transpose(0, 1)[:, order])[:, order.argsort()].transpose(0, 1)


def sorted_time_first_after_a_batch_in_order() -> Case:
    first = tokens(4, 3)
    return Case(double(SortedTimeFirst()), on(first[first[:, 0, 0].argsort()], tokens(4, 3, 1)), "right")


class BothWays(nn.Module):
    """One layer, on tokens of each sequence and on sequences of each token."""

    def __init__(self, *first: bool) -> None:
        super().__init__()
        self.shared, self.first = nn.Linear(6, 6), first

    def forward(self, rows: Tensor) -> Tensor:
        for time_first in self.first:
            rows = self.shared(rows.transpose(0, 1)).transpose(0, 1) if time_first else self.shared(rows)
            rows = torch.tanh(rows)
        return rows


def both_ways(*first: bool) -> Case:
    return Case(double(BothWays(*first)), on(tokens(4, 4), tokens(4, 4, 1), tokens(4, 4, 2)), "right")


def batch_first_and_time_first_and_square() -> Case:
    return both_ways(False, True)


def time_first_and_batch_first_and_square() -> Case:
    return both_ways(True, False)


def time_first_and_batch_first_and_time_first_and_square() -> Case:
    return both_ways(True, False, True)


class SwitchedOff(nn.Module):
    """A layer on rows that are no sequence's, whose output has a weight of zero, as of an expert that is not chosen."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.used, self.unused, self.shape = nn.Linear(6, 3), nn.Linear(6, 3), shape

    def forward(self, rows: Tensor) -> Tensor:
        return self.used(rows) + 0 * self.unused(rows.new_ones(*self.shape, 6)).flatten(0, -2).sum(0)


def layer_without_a_gradient() -> Case:
    return Case(double(SwitchedOff((7,))), on(X, X2), "right")


def layer_without_a_gradient_on_tokens() -> Case:
    return Case(double(SwitchedOff((3, 5))), on(X, X2), "right")


def layer_without_a_gradient_on_as_many_rows() -> Case:
    return Case(double(SwitchedOff((4,))), on(X, X2), "right")


class OnNoRows(nn.Module):
    """A parameter of an expert that no row is sent to, in the first batch."""

    def __init__(self, leading: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.scale, self.leading = nn.Linear(6, 3), nn.Parameter(torch.ones(3)), leading

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.layer(rows)
        return hidden + (hidden.new_ones(*self.leading, 3) * self.scale).flatten(0, -2).sum(0)


def parameter_on_no_rows() -> Case:
    return Case(double(OnNoRows((0,))), on(X, X2), "right")


def parameter_on_no_tokens() -> Case:
    return Case(double(OnNoRows((0, 4))), on(X, X2), "right")


def sequence_with_a_small_gradient() -> Case:
    """What is removed does not depend on the size of a gradient, so no gradient is small enough to be left out."""
    weights = torch.tensor([1.0, 1.0, 1e-5, 1.0], dtype=torch.float64)
    batches = [Batch(lambda model, x=x: weights * score(model(x))) for x in (X, X2, X)]
    return Case(double(Between(torch.clone)), batches, "right")


def log_probs_in_another_order() -> Case:
    return Case(double(Between(torch.clone)), lambda model: score(model(X)).flip(0), "right")


def last_short_microbatch() -> Case:
    return Case(double(Between(torch.clone)), on(tokens(4, 3), tokens(4, 3, 1), tokens(2, 3, 2)), "right")


def one_sequence() -> Case:
    return Case(double(Between(torch.clone)), on(tokens(1, 3), tokens(1, 3, 1)), "right")


def one_sequence_of_tokens() -> Case:
    return Case(double(Chunked(3)), on(tokens(1, 3), tokens(1, 3, 1)), "right")


def virtual(function: Callable[[Tensor], Tensor], expected: Any) -> Case:
    batches = [batch._replace(size=2) for batch in on(X, X2)]
    return Case(double(Between(function)), batches, expected)


def virtual_microbatches() -> Case:
    return virtual(torch.clone, "right")


def virtual_microbatches_that_mix() -> Case:
    return virtual(lambda rows: rows - rows.mean(0), "raised")


PACKED = torch.tensor([0, 0, 1, 2, 2, 2, 3])


def packed_by(ids: Tensor, leading: tuple[int, ...], function: Callable[[Tensor], Tensor], expected: Any) -> Case:
    def use(model: Any, seed: int) -> Tensor:
        out = model(tokens(7, 1, seed).view(*leading, 6))
        return torch.zeros(4, dtype=out.dtype).index_add(0, PACKED, score(out.view(7, 3)))

    batches = [Batch(lambda model, seed=seed: use(model, seed), ADVANTAGES, ids.view(leading)) for seed in (0, 1)]
    return Case(double(Between(function)), batches, expected)


def packed() -> Case:
    return packed_by(PACKED, (1, 7), torch.clone, "right")


def flattened() -> Case:
    return packed_by(PACKED, (7,), torch.clone, "right")


def packed_with_the_ids_of_other_rows() -> Case:
    return packed_by(PACKED.flip(0), (1, 7), torch.clone, "right")


def packed_with_one_wrong_id() -> Case:
    return packed_by(torch.tensor([0, 0, 1, 1, 2, 2, 3]), (1, 7), torch.clone, "right")


def packed_with_attention_across_sequences() -> Case:
    return packed_by(PACKED, (1, 7), lambda rows: rows.cumsum(1), "raised")


CASES = [
    sorted_rows, sorted_rows_after_a_batch_in_order, positions_as_many_as_sequences, positions,
    positions_in_a_last_short_microbatch, expanded_positions, chunks_as_long_as_the_batch, chunks,
    time_first_and_square, time_first, time_first_until_square, batch_first_and_time_first_and_square,
    sorted_time_first_after_a_batch_in_order,
    time_first_and_batch_first_and_square, time_first_and_batch_first_and_time_first_and_square,
    layer_without_a_gradient, layer_without_a_gradient_on_tokens, layer_without_a_gradient_on_as_many_rows,
    parameter_on_no_rows, parameter_on_no_tokens, sequence_with_a_small_gradient,
    log_probs_in_another_order, last_short_microbatch,
    one_sequence, virtual_microbatches, virtual_microbatches_that_mix, packed, flattened,
    packed_with_the_ids_of_other_rows, packed_with_one_wrong_id, packed_with_attention_across_sequences,
]  # fmt: skip


@in_all_ways(CASES)
def test_rows(case: Callable[[], Case], way: str, uncovered: bool) -> None:
    assert_outcome(case(), way, uncovered)


SOUND = [
    expanded_positions,
    last_short_microbatch,
    one_sequence,
    one_sequence_of_tokens,
    virtual_microbatches,
    packed,
    flattened,
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", SOUND, ids=lambda case: case.__name__)
def test_sound_rows_are_right_without_a_check_of_rows(case: Callable[[], Case], way: str) -> None:
    assert outcome(case(), way, check=False) == "right"


@pytest.mark.parametrize("way", WAYS)
def test_rows_of_another_shape_are_refused_without_a_check_of_rows(way: str) -> None:
    assert outcome(time_first(), way, check=False) == "raised"
