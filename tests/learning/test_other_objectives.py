"""Objectives and advantages beside REINFORCE and GRPO, against loops over rows in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from proma_bench.learning.advantages import centred_advantages, group_advantages, leave_one_out_advantages
from proma_bench.learning.experience import Experience
from proma_bench.learning.methods import all_methods, method_named
from proma_bench.tiers.bandit.config import BanditConfig

LENGTHS = (1, 3, 2)
ADVANTAGES = (0.8, -1.5, -0.2)


def sequences(layout: str, spread: float) -> tuple[Experience, Tensor, list[list[tuple[float, float]]]]:
    """Three sequences, current log-probabilities with a gradient, and (new, old) of each row by sequence."""
    generator = torch.Generator().manual_seed(3)
    old = -torch.rand(6, generator=generator, dtype=torch.float64) - 0.5
    new = old + spread * torch.randn(6, generator=generator, dtype=torch.float64)
    pairs = list(zip(new.tolist(), old.tolist(), strict=True))
    by_sequence = [pairs[:1], pairs[1:4], pairs[4:]]
    advantages = torch.tensor(ADVANTAGES, dtype=torch.float64)
    if layout == "flattened":
        ids = torch.tensor([0, 1, 1, 1, 2, 2])
        experience = Experience(torch.zeros(6), torch.zeros(6), old, advantages, advantages, sequence_ids=ids)
        return experience, new.requires_grad_(), by_sequence
    mask = torch.tensor([[True, False, False], [True, True, True], [True, True, False]])
    padded_old, padded_new = torch.full((3, 3), -7.0, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    padded_old[mask], padded_new[mask] = old, new
    zeros = torch.zeros(3, 3)
    return (
        Experience(zeros, zeros, padded_old, advantages, advantages, mask=mask),
        padded_new.requires_grad_(),
        by_sequence,
    )


def clipped(ratio: float, advantage: float, low: float, high: float) -> float:
    return min(ratio * advantage, max(1 - low, min(1 + high, ratio)) * advantage)


def wanted(method: str, rows: list[tuple[float, float]], advantage: float, config: Any) -> list[float]:
    """The objective of each row of a sequence."""
    ratios = [math.exp(new - old) for new, old in rows]
    if method == "gspo":
        ratio = math.prod(ratios) ** (1 / len(ratios))
        return [clipped(ratio, advantage, config.gspo_low, config.gspo_high)] * len(rows)
    found = []
    for (new, _), ratio in zip(rows, ratios, strict=True):
        value = clipped(ratio, advantage, config.clip, config.clip)
        if method == "grpo" and config.dual_clip is not None and advantage < 0:
            value = max(value, config.dual_clip * advantage)
        if method == "dapo":
            value = clipped(ratio, advantage, config.clip, config.clip_high)
        if method == "cispo":
            value = min(ratio, 1 + config.clip_high) * advantage * new
        if method == "ppo-kl":
            value = ratio * advantage - config.kl_penalty * (ratio - 1 - math.log(ratio))
        if method == "trpo":
            value = ratio * advantage
        found.append(value)
    return found


CASES = [
    ("grpo", {}),
    ("grpo", {"dual_clip": 1.3}),
    ("dr-grpo", {}),
    ("dapo", {}),
    ("dapo", {"clip": 0.1, "clip_high": 0.6}),
    ("cispo", {}),
    ("gspo", {}),
    ("gspo", {"gspo_low": 0.2, "gspo_high": 0.3}),
    ("ppo-kl", {"kl_penalty": 0.7}),
    ("trpo", {}),
]


@pytest.mark.parametrize("layout", ["flattened", "padded"])
@pytest.mark.parametrize("spread", [0.0, 0.05, 1.0])
@pytest.mark.parametrize(("method", "settings"), CASES, ids=str)
def test_an_objective_is_its_formula(method: str, settings: dict[str, Any], spread: float, layout: str) -> None:
    experience, log_probs, rows = sequences(layout, spread)
    config = BanditConfig(method=method, **settings)
    found = experience.per_sequence(method_named(method).objective_function(log_probs, experience, config))
    expected = [sum(wanted(method, *one, config)) for one in zip(rows, ADVANTAGES, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("method", ["grpo", "dr-grpo", "dapo", "cispo", "gspo", "ppo-kl", "trpo", "rloo"])
def test_without_a_step_all_are_the_policy_gradient(method: str) -> None:
    """Where the policy has not moved, ratios are one; GSPO gives the rows of a sequence equal parts of one weight."""
    experience, log_probs, _ = sequences("flattened", 0.0)
    objective = method_named(method).objective_function(log_probs, experience, BanditConfig(method=method))
    (gradient,) = torch.autograd.grad(objective.sum(), log_probs)
    torch.testing.assert_close(gradient, experience.per_row(experience.advantages))


def test_no_row_loses_its_gradient_with_cispo() -> None:
    experience, log_probs, rows = sequences("flattened", 1.0)
    config = BanditConfig(method="cispo")
    (gradient,) = torch.autograd.grad(
        method_named("cispo").objective_function(log_probs, experience, config).sum(), log_probs
    )
    ratios = [math.exp(new - old) for sequence in rows for new, old in sequence]
    weights = torch.tensor([min(ratio, 1.28) for ratio in ratios], dtype=torch.float64)
    assert max(ratios) > 1.28
    torch.testing.assert_close(gradient, weights * experience.per_row(experience.advantages))


@pytest.mark.parametrize("layout", ["flattened", "padded"])
def test_the_estimate_of_the_divergence_is_never_negative(layout: str) -> None:
    experience, log_probs, _ = sequences(layout, 1.0)
    by_penalty = []
    for penalty in (0.0, 1.0):
        config = BanditConfig(method="ppo-kl", kl_penalty=penalty)
        found = method_named("ppo-kl").objective_function(log_probs, experience, config)
        by_penalty.append(experience.per_sequence(found))
    assert bool((by_penalty[0] >= by_penalty[1]).all())


# ------------------------------------------------------------------------------------------------ advantages


@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_centred_and_leave_one_out_advantages(offset: float) -> None:
    rewards = [0.0, 1.0, 1.0, 4.0, 7.0, 7.0, 7.0, 7.0]
    given = torch.tensor(rewards, dtype=torch.float64).add(offset)
    centred, left_out = [], []
    for start in (0, 4):
        group = rewards[start : start + 4]
        centred += [reward - sum(group) / 4 for reward in group]
        left_out += [reward - (sum(group) - reward) / 3 for reward in group]
    assert centred_advantages(given, 4).tolist() == pytest.approx(centred)
    assert leave_one_out_advantages(given, 4).tolist() == pytest.approx(left_out)
    assert leave_one_out_advantages(given, 4)[4:].tolist() == [0.0] * 4


@pytest.mark.parametrize("advantages", [centred_advantages, leave_one_out_advantages])
def test_equal_rewards_and_groups_of_one_have_no_advantage(advantages: Any) -> None:
    assert advantages(torch.full((6,), 0.1), 3).tolist() == [0.0] * 6
    assert advantages(torch.tensor([1.0, 2.0]), 1).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="10 rewards do not make groups of 4"):
        advantages(torch.zeros(10), 4)


def test_which_advantages_and_weights_belong_to_which_method() -> None:
    ways = {name: (method.advantages_function, method.loss_aggregation) for name, method in all_methods().items()}
    assert ways["dr-grpo"] == (centred_advantages, "sum")
    assert ways["rloo"] == (leave_one_out_advantages, "sum")
    assert ways["gspo"] == (group_advantages, "sequence-mean")
    assert ways["trpo"] == (group_advantages, None)
