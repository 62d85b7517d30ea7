"""The Gymnasium tier: how episodes are played, what a batch is, and that every method learns."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from made_up_environments import Endless, registered
from oracle import Micro, assert_gradients, oracle_gradients
from small_runs import tiny_gym, without_timings
from torch.distributions import kl_divergence

from proma_bench import ProjectionConfig, Proma
from proma_bench.experiments.run import run_in
from proma_bench.experiments.training import Training, train
from proma_bench.learning.methods import METHODS
from proma_bench.learning.update import optimizer_step
from proma_bench.runs.criteria import criteria_for
from proma_bench.tiers.gym.config import GymConfig
from proma_bench.tiers.gym.environments import LONGEST, Environments
from proma_bench.tiers.gym.policies import CategoricalPolicy, GaussianPolicy
from proma_bench.tiers.gym.tier import TRAINING_SEEDS, Gym


@pytest.fixture
def clock():
    with registered():
        yield


def played(env, seeds, act=None, **settings):
    environments = Environments(tiny_gym(env=env, **{"max_episode_steps": None, **settings}), len(seeds))
    zeros = torch.zeros if environments.decoder.continuous else lambda rows, _: torch.zeros(rows, dtype=torch.long)
    return environments, environments.play(seeds, act or (lambda rows: zeros(len(rows), environments.decoder.outputs)))


def sampled(**settings):
    training = Training(tiny_gym(**settings))
    return training, training.sample()


# ------------------------------------------------------------------------------------------------ episodes


def test_episodes_are_laid_out_one_after_another_in_order_of_time(clock):
    seeds = list(range(12))
    acted = []

    def act(rows):
        acted.append(len(rows))
        return torch.arange(len(rows)) % 2

    environments, episodes = played("Made-v0", seeds, act)
    ends = [environment.unwrapped.end for environment in environments.envs]
    assert len(set(ends)) > 2
    assert episodes.sequence_ids.tolist() == [number for number, end in enumerate(ends) for _ in range(end)]
    assert episodes.observations.tolist() == [[end, time] for end in ends for time in range(end)]
    assert episodes.returns.tolist() == ends
    assert episodes.actions.tolist() == [a for environment in environments.envs for a in environment.unwrapped.actions]
    assert acted == [sum(end > time for end in ends) for time in range(max(ends))]  # the finished ones drop out


def test_truncation_and_termination_are_told_apart(clock):
    environments, episodes = played("Made-v0", list(range(20)), max_episode_steps=3)
    ends = torch.tensor([environment.unwrapped.end for environment in environments.envs])
    assert torch.equal(episodes.terminated, ends <= 3)
    assert torch.equal(episodes.truncated, ends >= 3)  # at three both are true
    assert torch.equal(episodes.returns, ends.clamp(max=3).float())  # what was collected until then


def test_an_environment_without_a_time_limit_gets_one():
    with registered(Endless):
        _, episodes = played("Made-v0", [0])
    assert episodes.returns.tolist() == [LONGEST]
    assert episodes.truncated.tolist() == [True]


def test_a_second_batch_begins_afresh(clock):
    environments, first = played("Made-v0", [3, 4])
    again = environments.play([3, 4], lambda rows: torch.ones(len(rows), dtype=torch.long))
    assert torch.equal(first.observations, again.observations)


@pytest.mark.parametrize("env", ["CartPole-v1", "FrozenLake8x8-v1", "Pendulum-v1"])
def test_what_acts_alike_from_one_seed_goes_alike(env):
    """Chance on the way, such as slippery ice, comes from the reset seed as well: a group differs by its actions."""
    _, episodes = played(env, [7, 7, 8])
    one, twin, other = (episodes.observations[episodes.sequence_ids == number] for number in range(3))
    assert torch.equal(one, twin)
    assert one.shape != other.shape or not torch.equal(one, other)


def test_ice_is_slippery_unless_told_otherwise():
    """Walking right, the first row of the lake leads straight to its end."""
    places = []
    for slippery in (True, False):
        right = lambda rows: torch.full((len(rows),), 2)  # noqa: E731
        _, episodes = played("FrozenLake8x8-v1", [1], right, slippery=slippery, max_episode_steps=6)
        places.append(episodes.observations.argmax(dim=1).tolist())
    assert places[1] == [0, 1, 2, 3, 4, 5]
    assert places[0] != places[1]


# ------------------------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0", "Acrobot-v1"])
def test_a_group_begins_from_one_reset_seed(env):
    _, experience = sampled(env=env)
    first = torch.stack([experience.observations[experience.sequence_ids == number][0] for number in range(12)])
    groups = first.reshape(4, 3, -1)
    assert (groups == groups[:, :1]).all()
    assert len(groups[:, 0].unique(dim=0)) == 4


def test_rewards_are_returns_and_advantages_are_within_groups():
    _, experience = sampled()
    lengths = experience.per_sequence(torch.ones(experience.rows))
    assert torch.equal(experience.rewards, lengths)  # CartPole pays one a step
    assert experience.advantages.reshape(4, 3).sum(dim=1).abs().max() < 1e-5
    assert experience.advantages.reshape(4, 3).std(dim=1, correction=0).max() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_old_log_probs_are_those_of_the_policy_that_acted(env):
    training, experience = sampled(env=env)
    with torch.no_grad():
        expected = training.policy.distribution(experience.observations).log_prob(experience.actions)
    assert torch.equal(experience.old_log_probs, expected)
    assert experience.old_log_probs.shape == experience.sequence_ids.shape


def test_actions_are_drawn_as_often_as_they_are_likely():
    generator = torch.Generator().manual_seed(0)
    observation = torch.randn(1, 4, generator=generator).expand(20_000, 4)
    categorical = CategoricalPolicy(4, 3, 8, generator)
    with torch.no_grad():
        shares = categorical.draw(observation, generator).bincount(minlength=3) / 20_000
        torch.testing.assert_close(shares, categorical.distribution(observation).probs[0], atol=0.01, rtol=0)
        gaussian = GaussianPolicy(4, 2, 8, generator)
        drawn, distribution = gaussian.draw(observation, generator), gaussian.distribution(observation)
    torch.testing.assert_close(drawn.mean(dim=0), distribution.mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.std(dim=0), distribution.stddev[0], atol=0.02, rtol=0)


def test_greedy_is_the_mode():
    generator = torch.Generator().manual_seed(0)
    observations = torch.randn(50, 4, generator=generator)
    for policy in (CategoricalPolicy(4, 3, 8, generator), GaussianPolicy(4, 2, 8, generator)):
        assert torch.equal(policy.greedy(observations), policy.distribution(observations).mode)


def test_methods_with_one_seed_play_the_same_first_batch():
    batches = [sampled(method=method)[1] for method in METHODS]
    for batch in batches[1:]:
        assert torch.equal(batches[0].observations, batch.observations)
    assert not torch.equal(batches[0].observations, sampled(seed=1)[1].observations[: batches[0].rows])


def test_validation_is_always_the_same_and_never_trained_on(monkeypatch):
    seeds = []
    play = Environments.play
    monkeypatch.setattr(Environments, "play", lambda self, s, act: seeds.append(list(s)) or play(self, s, act))
    training = Training(tiny_gym())
    list(training.batch())
    trained, *validated = seeds
    assert validated == 2 * [[TRAINING_SEEDS, TRAINING_SEEDS + 1]]
    assert max(trained) < TRAINING_SEEDS


def test_the_score_is_the_greedy_return(clock):
    tier = Gym(tiny_gym(env="Made-v0", validation_episodes=10, max_episode_steps=4))
    policy = tier.policy(torch.Generator().manual_seed(0))
    score = tier.evaluate(policy)
    ends = [environment.unwrapped.end for environment in tier.validation.envs]
    assert score["score"] == pytest.approx(np.minimum(ends, 4).mean())
    assert score["score_sampled"] is None
    assert score["truncated"] == pytest.approx(np.mean([end > 4 for end in ends]))


# ------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("projection", [ProjectionConfig(), ProjectionConfig("exact", max_removed=None)])
def test_a_real_batch_gives_the_literal_accumulation(env, projection):
    """One episode at a time through autograd, float64; the standard deviations of the Gaussian included."""
    training, experience = sampled(env=env, hidden=32)
    policy = training.policy
    training.proma.remove()
    policy.double()
    floats = ("observations", "old_log_probs", "rewards", "advantages")
    experience = dataclasses.replace(experience, **{name: getattr(experience, name).double() for name in floats})
    if env == "Pendulum-v1":
        experience = dataclasses.replace(experience, actions=experience.actions.double())
    microbatches = experience.microbatches(3, torch.Generator().manual_seed(0))

    def micro(microbatch):
        def log_prob(module, number):
            rows = microbatch.sequence_ids == number
            distribution = module.distribution(microbatch.observations[rows])
            return distribution.log_prob(microbatch.actions[rows]).sum() / experience.rows

        return Micro(log_prob, microbatch.advantages)

    expected = oracle_gradients(policy, list(map(micro, microbatches)), projection)
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    with Proma(policy, projection, record=True) as proma:
        optimizer_step(policy, torch.optim.SGD(policy.parameters(), lr=1.0), microbatches, training.config, proma)
    for name, parameter in policy.named_parameters():
        parameter.grad = before[name] - parameter.detach()
    assert_gradients(policy, expected, relative=1e-8)


def test_kl_and_entropy_of_gaussians_are_the_closed_forms():
    generator = torch.Generator().manual_seed(0)
    first, second = GaussianPolicy(4, 2, 8, generator), GaussianPolicy(4, 2, 8, generator)
    observations = torch.randn(6, 4, generator=generator)
    with torch.no_grad():
        second.log_std.value.copy_(torch.tensor([0.3, -1.0]))
        p, q = first.distribution(observations), second.distribution(observations)
        variances = p.stddev**2, q.stddev**2
        kl = (q.stddev / p.stddev).log() + (variances[0] + (p.mean - q.mean) ** 2) / (2 * variances[1]) - 0.5
        entropy = first.log_std.value.sum() + math.log(2 * math.pi * math.e)
        torch.testing.assert_close(kl_divergence(p, q), kl.sum(dim=1))
        torch.testing.assert_close(p.entropy(), entropy.expand(6))


# ------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("env", ["CartPole-v1", "FrozenLake8x8-v1", "Pendulum-v1"])
def test_the_same_seed_gives_the_same_metrics(env, method):
    config = tiny_gym(env=env, method=method, steps=4)
    state = torch.random.get_rng_state()
    assert without_timings(train(config)) == without_timings(train(config))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_run_that_stopped_resumes_to_the_same_metrics(tmp_path, env, step):
    class Stop(Exception):
        pass

    def stop(metrics):
        if metrics["step"] == step:
            raise Stop

    config = tiny_gym(env=env)
    with pytest.raises(Stop):
        run_in(tmp_path, config, on_step=stop)
    resumed = run_in(tmp_path, config, resume=True, on_note=pytest.fail)
    assert without_timings(resumed.metrics) == without_timings(train(config))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_to_balance(method):
    """Thirty steps, episodes of up to 200. Sampled returns begin near 20."""
    history = train(GymConfig(method=method, steps=30, max_episode_steps=200))
    rewards = [step["reward"] for step in history]
    assert np.mean(rewards[:2]) < 40
    assert np.mean(rewards[-4:]) > 120
    assert history[-1]["score"] > 150


def test_the_tier_has_its_environments_name_and_range():
    config = GymConfig(env="Acrobot-v1", method="grpo")
    assert config.title == "gym/Acrobot-v1"
    assert config.name == "gym/Acrobot-v1 grpo lr 0.01 seed 0"
    assert criteria_for(config).margin == 10
    assert criteria_for(GymConfig(env="Ant-v5")).margin == 0
    assert criteria_for(GymConfig(max_episode_steps=100)).margin == 0


def test_defaults_are_among_the_ladders_rates():
    for rates in GymConfig.sweep.values():
        assert GymConfig.learning_rate in rates
