"""Advantages and per-row objectives, against their definitions."""

import pytest
import torch

from proma_bench.learning.advantages import group_advantages
from proma_bench.learning.experience import Experience
from proma_bench.learning.methods import all_methods
from proma_bench.learning.objectives import grpo, reinforce
from proma_bench.tiers.bandit.config import BanditConfig


def rows(old_log_probs, advantages):
    old_log_probs, advantages = torch.tensor(old_log_probs), torch.tensor(advantages)
    zeros = torch.zeros(len(old_log_probs))
    return Experience(zeros, zeros, old_log_probs, advantages, advantages)


def gradient(objective, log_probs, experience, clip=0.2):
    log_probs = torch.tensor(log_probs, requires_grad=True)
    objective(log_probs, experience, BanditConfig(clip=clip)).sum().backward()
    return log_probs.grad.tolist()


def test_every_method_has_an_objective_and_advantages():
    for method in all_methods().values():
        assert callable(method.objective_function) and callable(method.advantages_function)


def test_advantages_are_standardised_within_their_group():
    advantages = group_advantages(torch.tensor([0.0, 1.0, 1.0, 1.0, 10.0, 30.0, 20.0, 20.0]), 4)
    expected = [-(3**0.5), 3**-0.5, 3**-0.5, 3**-0.5, -(2**0.5), 2**0.5, 0.0, 0.0]
    assert advantages.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e9, 1e12, 1e14])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_a_large_common_part_of_the_returns_changes_no_advantage(offset, scale):
    """Returns of 1e9 that differ by one: in float64 the differences are exact."""
    returns = scale * torch.tensor([0.0, 1.0, 1.0, 1.0, 3.0, 5.0, 4.0, 4.0], dtype=torch.float64)
    expected = group_advantages(returns, 4)
    torch.testing.assert_close(group_advantages(returns + offset, 4), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [0.1, 1.0, 1e3, 1e9, 3e15, -7e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_difference_in_the_last_digit_is_no_difference(size, dtype):
    returns = torch.full((8,), size, dtype=dtype)
    returns[3] = torch.nextafter(returns[3], torch.tensor(torch.inf, dtype=dtype))
    assert group_advantages(returns, 4).tolist() == [0.0] * 8


@pytest.mark.parametrize("smallest", [1e-3, 1e-12])
def test_small_rewards_keep_their_signs_and_their_sum(smallest):
    advantages = group_advantages(smallest * torch.tensor([0.0, 1.0, 3.0, 6.0]), 4)
    assert advantages.sum().abs() < 1e-6
    assert advantages.sign().tolist() == [-1, -1, 1, 1]


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1e8])
def test_a_group_without_variance_gives_exact_zeros(reward):
    assert group_advantages(torch.full((6,), reward), 3).tolist() == [0.0] * 6


def test_advantages_do_not_depend_on_the_rewards_offset_and_scale():
    rewards = torch.rand(8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(group_advantages(5 * rewards - 3, 4), group_advantages(rewards, 4), atol=1e-4, rtol=1e-4)


def test_rewards_must_make_whole_groups():
    with pytest.raises(ValueError, match="10 rewards do not make groups of 4"):
        group_advantages(torch.zeros(10), 4)


def test_reinforce_weighs_log_probs_by_advantages():
    assert gradient(reinforce, [-1.0, -2.0], rows([-1.0, -2.0], [0.5, -3.0])) == [0.5, -3.0]


def test_grpo_is_reinforce_as_long_as_the_policy_has_not_moved():
    experience = rows([-1.0, -2.0, -0.5], [0.5, -3.0, 0.0])
    assert gradient(grpo, [-1.0, -2.0, -0.5], experience) == gradient(reinforce, [-1.0, -2.0, -0.5], experience)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.5, 1.0, 0.0),  # already more likely than allowed: no push further
        (0.5, -1.0, 0.0),  # already less likely than allowed
        (0.5, 1.0, 0.5),  # moved the wrong way: the gradient must be able to come back
        (1.5, -1.0, -1.5),
        (1.1, 1.0, 1.1),  # within the range
    ],
)
def test_grpo_clips_only_steps_away_from_the_old_policy(ratio, advantage, expected):
    old = -1.0
    log_prob = old + torch.tensor(ratio).log().item()
    assert gradient(grpo, [log_prob], rows([old], [advantage])) == pytest.approx([expected], rel=1e-5)
