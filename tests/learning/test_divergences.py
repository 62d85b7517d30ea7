"""KL and entropy against sums written out, and against closed forms."""

import math

import pytest
import torch
from torch.distributions import Categorical, Normal

from proma_bench.learning import divergences as metrics
from proma_bench.learning.experience import Experience

ROWS = Experience(*[torch.zeros(5)] * 5)


def categorical(seed, scale=1.0):
    return Categorical(logits=scale * torch.randn(5, 7, generator=torch.Generator().manual_seed(seed)))


def test_kl_is_the_sum_over_all_actions():
    first, second = categorical(0), categorical(1)
    expected = (first.probs * (first.probs.log() - second.probs.log())).sum(dim=1).mean()
    assert metrics.kl(first, second, ROWS) == pytest.approx(float(expected), rel=1e-5)
    assert metrics.kl(first, second, ROWS) != pytest.approx(metrics.kl(second, first, ROWS), rel=1e-3)


def test_kl_of_a_policy_with_itself_is_zero():
    assert metrics.kl(categorical(0), categorical(0), ROWS) == 0


def test_an_impossible_action_does_not_break_kl_or_entropy():
    certain = Categorical(logits=torch.tensor([[0.0, -torch.inf]]).expand(5, 2))
    fair = Categorical(logits=torch.zeros(5, 2))
    assert metrics.kl(certain, fair, ROWS) == pytest.approx(math.log(2))
    assert metrics.entropy(certain, ROWS) == pytest.approx(0.0, abs=1e-6)


def test_kl_is_finite_where_a_probability_rounds_to_zero():
    fair, sure = Categorical(logits=torch.zeros(5, 2)), Categorical(logits=torch.tensor([[0.0, -300.0]]).expand(5, 2))
    assert metrics.kl(fair, sure, ROWS) == pytest.approx(150 - math.log(2))
    impossible = Categorical(logits=torch.tensor([[0.0, -torch.inf]]).expand(5, 2))
    assert metrics.kl(fair, impossible, ROWS) == math.inf


def test_entropy_lies_between_zero_and_that_of_chance():
    assert metrics.entropy(categorical(0, scale=0.0), ROWS) == pytest.approx(math.log(7))
    assert 0 < metrics.entropy(categorical(0, scale=3.0), ROWS) < math.log(7)


def test_gaussians_use_their_closed_form():
    first, second = Normal(torch.zeros(5), torch.ones(5)), Normal(torch.ones(5), 2 * torch.ones(5))
    assert metrics.kl(first, second, ROWS) == pytest.approx(math.log(2) + (1 + 1) / 8 - 0.5)
    assert metrics.entropy(first, ROWS) == pytest.approx(0.5 * math.log(2 * math.pi * math.e))


def test_padding_does_not_count():
    mask = torch.tensor([[True, True], [True, False]])
    experience = Experience(*[torch.zeros(2, 2)] * 3, torch.zeros(2), torch.zeros(2), mask=mask)
    logits = torch.zeros(2, 2, 4)
    logits[1, 1, 0] = 100.0  # at the padded row
    assert metrics.entropy(Categorical(logits=logits), experience) == pytest.approx(math.log(4))
