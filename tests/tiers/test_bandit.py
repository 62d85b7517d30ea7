"""The bandit tier: its data, its sampling and its score. (That it is learned is in test_ladder.py.)"""

import dataclasses

import pytest
import torch
from small_runs import tiny, without_timings

from proma_bench.experiments.training import Training, train
from proma_bench.learning.methods import METHODS
from proma_bench.tiers.bandit.tier import Bandit


def sampled(seed=0, method="proma"):
    training = Training(tiny(seed=seed, method=method))
    return training, training.sample()


def test_the_split_is_fixed_and_disjoint():
    tier, again = Bandit(tiny()), Bandit(tiny(seed=1))
    assert len(tier.images) == 1437
    assert len(tier.held_out_images) == 360
    assert torch.equal(tier.images, again.images)
    assert torch.equal(tier.held_out_labels, again.held_out_labels)
    everything = torch.cat([tier.images, tier.held_out_images])
    assert len(everything.unique(dim=0)) == 1797  # no image in both halves
    assert everything.min() == 0
    assert everything.max() == 1


def test_every_held_out_digit_is_as_frequent_as_the_others():
    counts = Bandit(tiny()).held_out_labels.bincount()
    assert counts.min() >= 34
    assert counts.max() <= 38


def test_a_group_is_one_image_and_the_reward_its_label():
    training, experience = sampled()
    groups = experience.observations.reshape(8, 4, 64)
    assert (groups == groups[:, :1]).all()
    assert len(groups[:, 0].unique(dim=0)) == 8
    index = [(training.tier.images == image).all(dim=1).nonzero().item() for image in experience.observations]
    assert torch.equal(experience.rewards, (training.tier.labels[index] == experience.actions).float())
    assert set(experience.rewards.tolist()) <= {0.0, 1.0}


def test_old_log_probs_are_those_of_the_sampling_policy():
    training, experience = sampled()
    with torch.no_grad():
        log_probs = training.policy.distribution(experience.observations).log_prob(experience.actions)
    assert torch.equal(log_probs, experience.old_log_probs)


def test_actions_follow_the_policy():
    training = Training(tiny(initial_states=500, group_size=8))
    with torch.no_grad():
        training.policy.layers[-1].bias[3] += 2.0  # so that there is something to follow
        experience = training.sample()
        expected = training.policy.distribution(experience.observations).probs.mean(dim=0)
    frequency = experience.actions.bincount(minlength=10) / len(experience)
    deviation = (expected * (1 - expected) / len(experience)).sqrt()
    assert ((frequency - expected).abs() < 5 * deviation).all()


def test_methods_with_one_seed_share_weights_and_initial_states_and_seeds_do_not():
    (first, one), (second, other), (third, another) = sampled(), sampled(method="grpo"), sampled(seed=1)
    assert torch.equal(one.observations, other.observations)
    assert torch.equal(one.actions, other.actions)
    assert not torch.equal(one.observations, another.observations)
    assert torch.equal(first.policy.layers[0].weight, second.policy.layers[0].weight)
    assert not torch.equal(first.policy.layers[0].weight, third.policy.layers[0].weight)


def test_initial_states_stay_paired_after_the_policies_have_parted():
    trainings = [Training(tiny(method=method, learning_rate=0.1)) for method in METHODS]
    for training in trainings:
        list(training.batch())
    batches = [training.sample() for training in trainings]
    assert not torch.equal(trainings[0].policy.layers[0].weight, trainings[2].policy.layers[0].weight)
    assert all(torch.equal(batch.observations, batches[0].observations) for batch in batches)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_reproducible_and_leaves_the_global_generator_alone(method):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train(tiny(method=method))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert without_timings(train(tiny(method=method))) == without_timings(first)
    assert without_timings(train(tiny(method=method, seed=1))) != without_timings(first)


def test_evaluation_is_greedy_and_expected_accuracy():
    tier = Bandit(tiny())
    policy = tier.policy(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        policy.layers[-1].bias[4] = 1.0  # always most likely a four
    share = float((tier.held_out_labels == 4).float().mean())
    probability = float(policy.distribution(tier.held_out_images).probs[0, 4].detach())
    expected = share * probability + (1 - share) * (1 - probability) / 9
    assert tier.evaluate(policy) == pytest.approx({"score": share, "score_sampled": expected})


def test_the_composition_of_microbatches_matters_to_proma_alone():
    """Plain accumulation adds up to the same gradient however it is cut; the projection does not."""
    for method, same in (("reinforce", True), ("proma", False)):
        config = tiny(method=method, steps=1)
        mixed, grouped = train(config)[0], train(dataclasses.replace(config, shuffle=False))[0]
        assert (mixed["grad_norm"] == pytest.approx(grouped["grad_norm"], rel=1e-4)) == same
