"""The step of TRPO against a dense Fisher matrix in float64, and its promises."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal, StudentT

from proma_bench.errors import RunError
from proma_bench.experiments.training import Training
from proma_bench.learning.divergences import kl
from proma_bench.learning.experience import Experience
from proma_bench.learning.natural import DAMPING, conjugate_gradients, natural_step
from proma_bench.learning.policy import Policy
from proma_bench.tiers.bandit.config import BanditConfig
from proma_bench.tiers.gym.config import GymConfig

RADIUS = 1e-6  # so small that the quadratic model is exact enough


class Small(Policy):
    """Seven weights or so; ``kind`` is that of the actions."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3)).double()
        self.unused = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def distribution(self, observations: Tensor) -> Categorical | Independent:
        found = self.layers(observations) + 0 * self.unused.sum()
        if self.kind == "categorical":
            return Categorical(logits=found)
        return Independent(Normal(found, torch.tensor(0.7, dtype=torch.float64)), 1)


def problem(kind: str) -> tuple[Small, list[Experience]]:
    policy, generator = Small(kind), torch.Generator().manual_seed(1)
    observations = torch.randn(10, 2, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        distribution = policy.distribution(observations)
        actions = distribution.sample()
        old = distribution.log_prob(actions)
    advantages = torch.randn(10, generator=generator, dtype=torch.float64)
    return policy, Experience(observations, actions, old, advantages, advantages).microbatches(4, None)


def objective(policy: Policy, microbatches: list[Experience]) -> Tensor:
    parts = []
    for part in microbatches:
        ratio = (policy.on(part).log_prob(part.actions) - part.old_log_probs).exp()
        parts.append((ratio * part.advantages).sum())
    return torch.stack(parts).sum() / 10


def dense_step(policy: Small, microbatches: list[Experience]) -> tuple[list[Tensor], Tensor]:
    """The parameters, and the step with the Fisher matrix written out from the Jacobian of what the network returns."""
    parameters = [parameter for name, parameter in policy.named_parameters() if name != "unused"]
    rows = torch.cat([part.observations for part in microbatches])

    def gradient(value: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in torch.autograd.grad(value, parameters, retain_graph=True)])

    right = gradient(objective(policy, microbatches))
    fisher = torch.zeros(len(right), len(right), dtype=torch.float64)
    for row in rows:
        outputs = policy.layers(row)
        jacobian = torch.stack([gradient(output) for output in outputs])
        p = outputs.softmax(0).detach()
        inner = p.diag() - torch.outer(p, p) if policy.kind == "categorical" else torch.eye(3).double() / 0.7**2
        fisher += jacobian.T @ inner @ jacobian / len(rows)
    direction = torch.linalg.solve(fisher + DAMPING * torch.eye(len(fisher)), right)
    return parameters, math.sqrt(2 * RADIUS / float(direction @ fisher @ direction)) * direction


def taken(policy: Small, microbatches: list[Experience], radius: float = RADIUS) -> None:
    (-objective(policy, microbatches)).backward()
    config = BanditConfig(method="trpo", learning_rate=radius)
    natural_step(policy, microbatches, lambda: float(objective(policy, microbatches).detach()), config)


@pytest.mark.parametrize("kind", ["categorical", "normal"])
def test_the_step_is_that_of_the_dense_fisher_matrix(kind: str) -> None:
    policy, microbatches = problem(kind)
    parameters, step = dense_step(policy, microbatches)
    before = torch.cat([parameter.detach().flatten() for parameter in parameters])
    taken(policy, microbatches)
    after = torch.cat([parameter.detach().flatten() for parameter in parameters])
    assert len({parameter.untyped_storage().data_ptr() for parameter in parameters}) == len(parameters)
    torch.testing.assert_close(after - before, step, rtol=1e-3, atol=1e-3 * float(step.abs().max()))


@pytest.mark.parametrize("kind", ["categorical", "normal"])
@pytest.mark.parametrize("radius", [1e-6, 1e-3, 0.1, 10.0])
def test_the_divergence_stays_within_the_radius_and_the_objective_rises(kind: str, radius: float) -> None:
    policy, microbatches = problem(kind)
    before, reached = copy.deepcopy(policy), float(objective(policy, microbatches).detach())
    taken(policy, microbatches, radius)
    whole = Experience.join(microbatches)
    with torch.no_grad():
        divergence = kl(before.on(whole), policy.on(whole), whole)
        assert float(objective(policy, microbatches)) > reached
    assert 0 < divergence <= 1.5 * radius
    assert radius > 0.01 or divergence > 0.5 * radius


def test_advantages_of_zero_move_nothing() -> None:
    policy, microbatches = problem("categorical")
    still = [
        Experience(
            *(getattr(one, name) for name in ("observations", "actions", "old_log_probs", "rewards")),
            advantages=torch.zeros_like(one.rewards),
        )
        for one in microbatches
    ]
    before = copy.deepcopy(policy.state_dict())
    taken(policy, still)
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())


def test_a_step_that_does_not_help_is_taken_back() -> None:
    policy, microbatches = problem("categorical")
    (-objective(policy, microbatches)).backward()
    before = copy.deepcopy(policy.state_dict())
    natural_step(policy, microbatches, lambda: 0.0, BanditConfig(method="trpo", learning_rate=0.1))
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())


def test_a_policy_without_a_divergence_is_refused() -> None:
    policy, microbatches = problem("categorical")
    policy.distribution = lambda observations: StudentT(3.0, policy.layers(observations)[:, 0])  # type: ignore[method-assign]
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(RunError, match="which a StudentT does not give"):
        natural_step(policy, microbatches, lambda: 0.0, BanditConfig(method="trpo"))
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())


@pytest.mark.parametrize("environment", ["CartPole-v1", "Pendulum-v1"])
def test_it_trains_on_environments(environment: str) -> None:
    training = Training(GymConfig(method="trpo", env=environment, steps=2, learning_rate=0.01))
    for metrics in training.batch():
        assert 0 < metrics["kl_local"] <= 0.015 * 1.01


def test_conjugate_gradients_solve() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    matrix, right = root @ root.T + torch.eye(8), torch.randn(8, generator=generator, dtype=torch.float64)
    found = conjugate_gradients(lambda vector: matrix @ vector, right)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, right), rtol=1e-4, atol=1e-4)
