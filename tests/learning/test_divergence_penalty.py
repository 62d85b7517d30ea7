"""PPO with a penalty on the divergence from the policy that has sampled, against gradients written out by hand."""

import copy
import dataclasses

import pytest
import torch
from small_runs import tiny, tiny_gym, tiny_transformer
from test_update import Linear, sample

from proma_bench.errors import UsageError
from proma_bench.experiments.training import Training
from proma_bench.learning.methods import all_methods
from proma_bench.learning.update import optimizer_step

BETA = 0.7


def moved(policy, by):
    """The policy a little further on, as after the first optimizer step on a batch."""
    other = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return other


def by_hand(policy, sampler, experience, method):
    """Row by row: the ratio times the advantage, less the penalty from probabilities written out."""
    total = 0
    for row in range(len(experience)):
        state, action = experience.observations[row], experience.actions[row]
        old, new = (torch.softmax(one.layer(state), dim=-1) for one in (sampler, policy))
        old = old.detach()
        ratio = new[action].log().sub(experience.old_log_probs[row]).exp()
        exact = sum(old[label] * (old[label] / new[label]).log() for label in range(4))
        penalty = exact if method == "ppo-kl-exact" else ratio - 1 - ratio.log()
        total = total + ratio * experience.advantages[row] - BETA * penalty
    return torch.autograd.grad(total / len(experience), list(policy.parameters()))


@pytest.mark.parametrize("method", ["ppo-kl", "ppo-kl-exact"])
@pytest.mark.parametrize("advantages", [1.0, 0.0])
@pytest.mark.parametrize("size", [5, 12])
def test_the_gradient_has_the_penalty_also_without_advantages(method, advantages, size):
    sampler = Linear()
    policy = moved(sampler, by=0.3)
    found = sample(sampler)
    experience = dataclasses.replace(found, advantages=advantages * found.advantages)
    wanted = by_hand(policy, sampler, experience, method)
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    config = tiny(method=method, kl_penalty=BETA)
    optimizer_step(policy, optimizer, experience.microbatches(size, None), config, None, sampler)
    for parameter, old, gradient in zip(policy.parameters(), before, wanted, strict=True):
        assert gradient.norm() > 1e-3
        torch.testing.assert_close(parameter.detach() - old, gradient, rtol=1e-9, atol=1e-12)


def test_the_policy_that_has_sampled_stays_the_one_of_the_batch():
    training = Training(tiny(method="ppo-kl-exact"))
    weights = []
    sample_of = training.tier.sample
    training.tier.sample = lambda policy, generators: (
        weights.append([parameter.detach().clone() for parameter in policy.parameters()]),
        sample_of(policy, generators),
    )[1]
    for _ in range(2):
        for _ in training.batch():
            assert training.sampler is not training.policy
            assert all(map(torch.equal, training.sampler.parameters(), weights[-1]))


def test_a_larger_penalty_moves_less():
    def kl(penalty):
        return Training(tiny(method="ppo-kl-exact", kl_penalty=penalty, steps=2, learning_rate=0.05)).batch()

    (_, free), (_, held) = (list(kl(penalty)) for penalty in (0.0, 100.0))
    assert held["kl_global"] < 0.5 * free["kl_global"]


def test_it_runs_in_environments_and_refuses_language_models():
    assert len(list(Training(tiny_gym(method="ppo-kl-exact")).batch())) == 2
    assert all_methods()["ppo-kl-exact"].needs_distributions
    with pytest.raises(UsageError, match="ppo-kl-exact needs the whole distributions of the policy"):
        Training(tiny_transformer(method="ppo-kl-exact"))
