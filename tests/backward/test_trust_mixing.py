"""Where the rows of one sequence depend on those of another, a layer's rows are no sequence's: the use is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from between import Between, mixed, on
from torch import nn
from trust import X2, Case, X, assert_outcome, double, in_all_ways, score


def batch_norm(training: bool) -> Case:
    model = double(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 3)))
    model[1](torch.randn(20, 5, dtype=torch.float64))  # running statistics to speak of
    return Case(model.train(training), on(X, X2), "raised" if training else "right")


def batch_norm_in_training() -> Case:
    return batch_norm(True)


def batch_norm_in_eval() -> Case:
    return batch_norm(False)


def frozen_batch_norm(training: bool) -> Case:
    model = double(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)))
    model[1].requires_grad_(False)
    return Case(model.train(training), on(X, X2), "raised" if training else "right")


def frozen_batch_norm_in_training() -> Case:
    return frozen_batch_norm(True)


def frozen_batch_norm_in_eval() -> Case:
    return frozen_batch_norm(False)


def batch_norm_that_trains_later() -> Case:
    """The first pass is sound, so a check of the first pass alone would trust it."""
    case = batch_norm(False)
    first, second = on(X, X2)
    return case._replace(use=[first, second._replace(before=nn.Module.train)], expected="raised")


def mixing_that_begins_later() -> Case:
    """No layer that anyone has heard of: what the model itself does between layers."""
    first, second = on(X, X2)
    model = double(Between(torch.clone))

    def train(found: Any) -> None:
        found.function = lambda rows: rows - rows.mean(0)

    return Case(model.eval(), [first, second._replace(before=train)], "raised")


def rolled() -> Case:
    return mixed(lambda rows: rows.roll(1, 0))._replace(expected="right")


def rolled_over_two() -> Case:
    return mixed(lambda rows: rows + rows.roll(1, 0))


def reversed_rows() -> Case:
    return mixed(lambda rows: rows.flip(0))._replace(expected="right")


def centred() -> Case:
    return mixed(lambda rows: rows - rows.mean(0))


def scaled_by_the_batch() -> Case:
    return mixed(lambda rows: rows / rows.norm())


def cumulated() -> Case:
    return mixed(lambda rows: rows.cumsum(0))


def attention_over_the_batch() -> Case:
    return mixed(lambda rows: torch.softmax(rows @ rows.T, dim=1) @ rows)


def pairs() -> Case:
    return mixed(lambda rows: rows.view(2, 2, 5).mean(1, keepdim=True).expand(2, 2, 5).reshape(4, 5) + rows)


def in_pairs_that_exchange() -> Case:
    return mixed(lambda rows: torch.cat([rows[2:], rows[:2]]))._replace(expected="right")


def first_row_in_all() -> Case:
    return mixed(lambda rows: rows + rows[:1])


def largest_of_the_batch() -> Case:
    return mixed(lambda rows: torch.maximum(rows, rows.amax(0)))


def statistics_without_gradient() -> Case:
    """Nothing mixes that a gradient can tell: statistics of the batch are constants."""
    return mixed(lambda rows: (rows - rows.detach().mean(0)) / (rows.detach().std() + 1))._replace(expected="either")


def log_probs_that_mix() -> Case:
    """Layers are sound; what the user makes of their output is not."""
    use = lambda model: score(model(X)) - score(model(X)).mean()  # noqa: E731
    return Case(double(Between(torch.clone)), use, "raised")


CASES = [
    batch_norm_in_training, batch_norm_in_eval, frozen_batch_norm_in_training, frozen_batch_norm_in_eval,
    batch_norm_that_trains_later, mixing_that_begins_later, rolled, rolled_over_two, reversed_rows, centred,
    scaled_by_the_batch, cumulated, attention_over_the_batch, pairs, in_pairs_that_exchange, first_row_in_all,
    largest_of_the_batch, statistics_without_gradient, log_probs_that_mix,
]  # fmt: skip


@in_all_ways(CASES)
def test_mixing(case: Callable[[], Case], way: str, uncovered: bool) -> None:
    assert_outcome(case(), way, uncovered)
