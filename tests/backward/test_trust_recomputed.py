"""A layer without a rule of its own is computed once more in the backward pass. What changed since must not matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from custom_layers import Scale, around, case, first_seen_in_eval
from torch import Tensor, nn
from trust import X2, Batch, Case, X, assert_outcome, double, in_all_ways, score


def scale() -> Case:
    return case(Scale(), expected="right")


class RunningMean(Scale):
    """Statistics that every forward pass moves, as in normalisers of observations; constants for autograd."""

    def forward(self, rows: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(rows.mean(0), 0.3)
        return self.scaled(rows - self.mean)


def running_mean() -> Case:
    return case(RunningMean())


def running_mean_used_twice() -> Case:
    model = around(RunningMean())
    return Case(model, lambda model: score(model(X)) + score(model(X2)))


class RunningAttribute(Scale):
    """The same in an attribute that is no buffer."""

    def forward(self, rows: Tensor) -> Tensor:
        self.temperature = 0.5 * self.temperature + float(rows.detach().abs().mean())
        return self.scaled(rows) / self.temperature


def running_attribute() -> Case:
    return case(RunningAttribute())


class Counting(Scale):
    def forward(self, rows: Tensor) -> Tensor:
        self.calls += 1
        return self.scaled(rows) * self.calls


def counted_calls() -> Case:
    return case(Counting())


def temperature_changed_meanwhile() -> Case:
    return case(Scale(), lambda model: setattr(model[1], "temperature", model[1].temperature * 2))


class Buffered(Scale):
    def forward(self, rows: Tensor) -> Tensor:
        return self.scaled(rows) * (1 + self.mean)


def buffer_changed_meanwhile() -> Case:
    """Autograd notices: the buffer was saved. Whoever computes again would not."""
    return case(Buffered(), lambda model: setattr(model[1], "mean", model[1].mean + 0.5))


def weight_changed_meanwhile() -> Case:
    """Another parameter in its place: the gradient is the former one's."""

    def change(model: Any) -> None:
        model[1].weight = nn.Parameter(model[1].weight.detach() * 2)

    return case(Scale(), change, with_autograd="either")


class Moded(Scale):
    def forward(self, rows: Tensor) -> Tensor:
        return self.scaled(rows) if self.training else self.scaled(rows).square()


def mode_switched_between_forward_and_backward() -> Case:
    return case(Moded(), lambda model: model.train(not model.training))


def mode_switched_between_two_calls() -> Case:
    def use(model: Any) -> Tensor:
        first = score(model.train()(X))
        return first + score(model.eval()(X2))

    return Case(around(Moded()), use)


class BatchStatistics(Scale):
    """Statistics of the batch are constants for autograd, and others when a sequence is computed alone."""

    def forward(self, rows: Tensor) -> Tensor:
        return self.scaled(rows / rows.detach().abs().amax())


def statistics_of_the_batch() -> Case:
    return case(BatchStatistics())


class MixingLayer(Scale):
    def forward(self, rows: Tensor) -> Tensor:
        return self.scaled(rows - rows.mean(0))


def layer_that_mixes() -> Case:
    return case(MixingLayer(), expected="raised")


def running_mean_first_seen_in_eval() -> Case:
    return first_seen_in_eval(RunningMean())


def moded_first_seen_in_eval() -> Case:
    return first_seen_in_eval(Moded())


class MixingInTraining(Scale):
    def forward(self, rows: Tensor) -> Tensor:
        return self.scaled(rows - rows.mean(0) if self.training else rows)


def mixing_first_seen_in_eval() -> Case:
    return first_seen_in_eval(MixingInTraining())._replace(expected="raised")


def epsilon_changed_meanwhile() -> Case:
    """A built-in rule computes the normalised input again."""
    return case(nn.LayerNorm(5), lambda model: setattr(model[1], "eps", 0.5), expected="right")


def padding_changed_meanwhile() -> Case:
    tokens = torch.arange(8).view(4, 2) % 3
    model = double(nn.Sequential(nn.Embedding(3, 5), nn.Linear(5, 3)))
    change: Callable[[Any], object] = lambda model: setattr(model[0], "padding_idx", 1)  # noqa: E731
    return Case(model, [Batch(lambda model: score(model(tokens)), between=change)], "right")


CASES = [
    scale, running_mean, running_mean_used_twice, running_attribute, counted_calls, temperature_changed_meanwhile,
    buffer_changed_meanwhile, weight_changed_meanwhile, mode_switched_between_forward_and_backward,
    mode_switched_between_two_calls, statistics_of_the_batch, layer_that_mixes, running_mean_first_seen_in_eval,
    moded_first_seen_in_eval, mixing_first_seen_in_eval, epsilon_changed_meanwhile, padding_changed_meanwhile,
]  # fmt: skip


@in_all_ways(CASES)
def test_recomputed(case: Callable[[], Case], way: str, uncovered: bool) -> None:
    assert_outcome(case(), way, uncovered)
