"""One optimizer step, against gradients written out by hand."""

import copy
import dataclasses
from contextlib import nullcontext

import pytest
import torch
from small_runs import tiny
from torch import nn
from torch.distributions import Categorical

from proma_bench import ProjectionConfig, Proma, accumulate
from proma_bench.errors import DivergenceError, RunError
from proma_bench.learning.experience import Experience
from proma_bench.learning.policy import Policy
from proma_bench.learning.update import optimizer_step
from proma_bench.tiers.gym.policies import GaussianPolicy


class Linear(Policy):
    """Float64, so that differences are differences of method."""

    def __init__(self):
        super().__init__()
        self.layer = nn.utils.skip_init(nn.Linear, 5, 4, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def distribution(self, observations):
        return Categorical(logits=self.layer(observations), validate_args=False)


def sample(policy, layout="bandit"):
    """Twelve sequences, some of them sampled from a policy that is not quite the present one."""
    generator = torch.Generator().manual_seed(1)
    shape = {"bandit": (12,), "flat": (30,), "padded": (12, 3)}[layout]
    observations = torch.randn(*shape, 5, generator=generator, dtype=torch.float64)
    actions = torch.randint(4, shape, generator=generator)
    with torch.no_grad():
        log_probs = policy.distribution(observations).log_prob(actions)
    ids = torch.cat([torch.arange(12), torch.randint(12, (18,), generator=generator)]) if layout == "flat" else None
    mask = torch.rand(shape, generator=generator) < 0.7 if layout == "padded" else None
    if mask is not None:
        mask[:, 0] = True
    advantages = torch.randn(12, generator=generator, dtype=torch.float64)
    return Experience(observations, actions, log_probs - 0.1, advantages, advantages, ids, mask)


def step(policy, microbatches, config, projection=None):
    """The change that one step of plain gradient descent makes, and what the step reports."""
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    if config.method == "proma":
        with Proma(policy, projection or ProjectionConfig(), record=True) as proma:
            report = optimizer_step(policy, optimizer, microbatches, config, proma)
    else:
        report = optimizer_step(policy, optimizer, microbatches, config)
    return [parameter.detach() - old for parameter, old in zip(policy.parameters(), before, strict=True)], report


def assert_same(first, second):
    for left, right in zip(first, second, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layout", ["bandit", "flat", "padded"])
@pytest.mark.parametrize("size", [1, 5, 12])
def test_reinforce_is_the_token_mean_whatever_the_microbatches(layout, size):
    policy = Linear()
    experience = sample(policy, layout)
    log_probs = policy.distribution(experience.observations).log_prob(experience.actions)
    weights = experience.per_row(experience.advantages)
    real = torch.ones_like(weights, dtype=torch.bool) if experience.mask is None else experience.mask
    gradients = torch.autograd.grad((weights * log_probs)[real].mean(), list(policy.parameters()))

    order = torch.Generator().manual_seed(2)
    change, report = step(policy, experience.microbatches(size, order), tiny(method="reinforce"))
    assert_same(change, gradients)
    assert report["grad_norm"] == pytest.approx(float(torch.cat([g.flatten() for g in gradients]).norm()))
    assert report["removed_ratio"] is report["clamped"] is None


@pytest.mark.parametrize("layout", ["bandit", "flat", "padded"])
def test_proma_without_shrinkage_is_reinforce(layout):
    policy = Linear()
    microbatches = sample(policy, layout).microbatches(4, None)
    plain, _ = step(copy.deepcopy(policy), microbatches, tiny(method="reinforce"))
    change, report = step(policy, microbatches, tiny(method="proma"), ProjectionConfig(shrinkage=0.0))
    assert_same(change, plain)
    assert report["removed_ratio"] == 0


@pytest.mark.parametrize("layout", ["bandit", "flat", "padded"])
@pytest.mark.parametrize("projection", [ProjectionConfig(), ProjectionConfig("exact", max_removed=None)])
def test_proma_is_the_literal_accumulation(layout, projection):
    policy = Linear()
    experience = sample(policy, layout)
    microbatches = experience.microbatches(3, torch.Generator().manual_seed(2))
    running = [None] * 2
    for microbatch in microbatches:
        log_probs = policy.distribution(microbatch.observations).log_prob(microbatch.actions)
        sequences = microbatch.per_sequence(log_probs) / experience.rows
        each = [torch.autograd.grad(one, list(policy.parameters()), retain_graph=True) for one in sequences]
        for index, seq_grads in enumerate(zip(*each, strict=True)):
            running[index] = accumulate(running[index], torch.stack(seq_grads), microbatch.advantages, projection)
    change, report = step(policy, microbatches, tiny(method="proma"), projection)
    assert_same(change, running)
    assert 0 < report["removed_ratio"] <= 1 + 1e-9
    assert (report["clamped"] > 0) == (projection.max_removed is not None)


@pytest.mark.parametrize("max_removed", [0.5, None])
def test_a_microbatch_without_advantages_counts_only_where_nothing_clamps(max_removed):
    policy, projection = Linear(), ProjectionConfig("exact", max_removed=max_removed)
    first, second = sample(policy).microbatches(6, None)
    silent = Experience(second.observations, second.actions, second.old_log_probs, *[torch.zeros(6).double()] * 2)
    config = tiny(method="proma", projection="exact", max_removed=max_removed)
    alone, _ = step(copy.deepcopy(policy), [first], config, projection)
    both, _ = step(policy, [first, silent], config, projection)
    shrunk = both[0].norm() / (alone[0].norm() / 2)  # half, as the step has twice the rows
    assert float(shrunk) == pytest.approx(1.0) if max_removed else float(shrunk) < 0.99


@pytest.mark.parametrize("method", ["reinforce", "grpo", "proma"])
def test_a_step_without_any_advantage_is_a_step_with_a_gradient_of_zero(method):
    """Adam's momentum moves the weights on, as it does in a trainer that multiplies its loss by zero."""
    policy = Linear()
    experience = sample(policy)
    silent = dataclasses.replace(experience, advantages=torch.zeros(12).double())
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.01)
    with Proma(policy, ProjectionConfig(), record=True) if method == "proma" else nullcontext() as proma:
        config = tiny(method=method)
        optimizer_step(policy, optimizer, experience.microbatches(4, None), config, proma)
        by_hand, state = copy.deepcopy(policy), copy.deepcopy(optimizer.state_dict())
        report = optimizer_step(policy, optimizer, silent.microbatches(4, None), config, proma)
    expected = torch.optim.AdamW(by_hand.parameters(), lr=0.1, weight_decay=0.01)
    expected.load_state_dict(state)
    old = [parameter.detach().clone() for parameter in by_hand.parameters()]
    for parameter in by_hand.parameters():
        parameter.grad = torch.zeros_like(parameter)
    expected.step()
    assert_same(policy.parameters(), by_hand.parameters())
    assert all((new - before).abs().max() > 1e-3 for new, before in zip(policy.parameters(), old, strict=True))
    assert report["grad_norm"] == 0
    assert all(parameter.grad is None for parameter in policy.parameters())


@pytest.mark.parametrize("method", ["reinforce", "grpo", "proma"])
def test_numbers_that_are_not_finite_stop_the_step_before_the_weights_change(method):
    policy = Linear()
    experience = sample(policy)
    experience.observations[7] = torch.inf
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(RunError, match="no longer finite"):
        step(policy, experience.microbatches(4, None), tiny(method=method))
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())


class Mixing(Linear):
    """A policy that normalises over the batch."""

    def distribution(self, observations):
        logits = self.layer(observations)
        return Categorical(logits=logits - logits.mean(0) / 2, validate_args=False)


def test_what_proma_refuses_stops_the_step_in_one_line_before_the_weights_change():
    policy = Mixing()
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(RunError, match=r"^PROMA cannot take this step: module 'layer' \(Linear\): .*uncovered"):
        step(policy, sample(policy).microbatches(4, None), tiny(method="proma"))
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())


def test_a_parameter_that_is_used_directly_does_not_hide_that_numbers_are_not_finite():
    """A hook would notice first that its parts do not add up."""
    policy = GaussianPolicy(5, 2, 8, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    observations, actions = torch.randn(12, 5, generator=generator), torch.randn(12, 2, generator=generator)
    advantages, before = torch.randn(12, generator=generator), copy.deepcopy(policy.state_dict())
    parts = Experience(observations, actions, torch.zeros(12), advantages, advantages).microbatches(4, None)
    parts[1].observations[0] = torch.nan
    with pytest.raises(DivergenceError, match="no longer finite"):
        step(policy, parts, tiny(method="proma"))
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())
