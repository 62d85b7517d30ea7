"""The loop: what it records, and that it measures what it says."""

import copy

import pytest
import torch
from small_runs import tiny, tiny_transformer
from torch import nn
from torch.distributions import kl_divergence

from proma_bench.errors import RunError
from proma_bench.experiments.training import Training, make_optimizer, make_proma, train
from proma_bench.learning.methods import all_methods

NAMES = """step reward score score_sampled kl_local kl_local_unseen kl_global entropy grad_norm removed_ratio
removed_by_layer clamped update_seconds seconds sequences""".split()
OBSERVED = {name + part for name in ("effective_rank", "conflicts", "noise_scale") for part in ("", "_by_layer")}


@pytest.mark.parametrize("method", all_methods())
def test_every_step_has_every_metric_by_its_name(method):
    history = train(tiny(method=method))
    assert [step["step"] for step in history] == [1, 2, 3, 4, 5, 6]
    for step in history:
        assert [name for name in step if name not in OBSERVED] == NAMES
        assert OBSERVED.intersection(step) == (OBSERVED if method == "observe" else set())
        missing = {name for name in NAMES if step[name] is None}
        of_projections = {"removed_ratio", "removed_by_layer", "clamped"}
        assert missing == (set() if all_methods()[method].projects else of_projections)
        assert step["sequences"] == 16  # of the batch's 8 initial states x 4 samples, half


@pytest.mark.parametrize("method", all_methods())
def test_kl_compares_the_policies_before_after_and_at_the_start(method):
    training = Training(tiny(method=method))
    sample = training.tier.sample
    seen = []
    training.tier.sample = lambda *arguments: seen.append(sample(*arguments)) or seen[0]
    initial = before = copy.deepcopy(training.initial)
    for metrics, part in zip(training.batch(), (slice(0, 16), slice(16, 32)), strict=True):
        after = training.policy
        states = seen[0].observations[part]
        with torch.no_grad():
            local = kl_divergence(before.distribution(states), after.distribution(states)).mean()
            whole = kl_divergence(after.distribution(states), initial.distribution(states)).mean()
            entropy = after.distribution(states).entropy().mean()
        assert metrics["kl_local"] == pytest.approx(float(local), rel=1e-4)
        assert metrics["kl_global"] == pytest.approx(float(whole), rel=1e-4)
        assert metrics["entropy"] == pytest.approx(float(entropy), rel=1e-6)
        assert metrics["kl_local"] > 0
        others = seen[0].observations[16:] if part.start == 0 else seen[0].observations[:16]
        with torch.no_grad():
            unseen = kl_divergence(before.distribution(others), after.distribution(others)).mean()
        assert metrics["kl_local_unseen"] == pytest.approx(float(unseen), rel=1e-4)
        before = copy.deepcopy({name: value.clone() for name, value in after.state_dict().items()})
        before = _with_weights(training.initial, before)


def _with_weights(policy, weights):
    policy = copy.deepcopy(policy)
    policy.load_state_dict(weights)
    return policy


def test_measuring_changes_nothing():
    """A run's weights are those of the bare optimizer steps."""
    training, bare = Training(tiny(method="reinforce")), Training(tiny(method="reinforce"))
    list(training.batch())
    bare.tier.evaluate = lambda policy: {}
    list(bare.batch())
    assert all(torch.equal(a, b) for a, b in zip(training.policy.parameters(), bare.policy.parameters(), strict=True))


def test_a_batch_of_one_step_has_no_sequences_that_it_did_not_learn_from():
    assert [step["kl_local_unseen"] for step in train(tiny(steps=2, steps_per_batch=1))] == [None, None]


def test_steps_need_not_fill_the_last_batch():
    assert [step["step"] for step in train(tiny(steps=3))] == [1, 2, 3]


def test_a_shorter_run_is_the_beginning_of_a_longer_one():
    short, long = train(tiny(steps=3)), train(tiny(steps=5))
    assert [step["reward"] for step in short] == [step["reward"] for step in long[:3]]
    assert [step["kl_local"] for step in short] == [step["kl_local"] for step in long[:3]]


def test_the_share_removed_is_recorded_for_each_parameter_tensor():
    names = sorted(name for name, _ in Training(tiny()).policy.named_parameters())
    for step in train(tiny()):
        shares = step["removed_by_layer"]
        assert list(shares) == names
        assert all(0 <= share <= 1 for share in shares.values())
        assert step["removed_ratio"] == pytest.approx(sum(shares.values()) / len(shares))
    assert train(tiny(microbatch_size=16))[0]["removed_by_layer"] == {}  # one microbatch projects nothing


def test_the_learning_rate_rises_in_a_line_to_its_value():
    training, rates = Training(tiny(warmup_steps=4, learning_rate=0.01)), []
    while training.step < training.config.steps:
        for _ in training.batch():
            rates.append(training.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])


def test_scores_are_measured_when_asked_and_at_the_end():
    plain, sparse = train(tiny()), train(tiny(validate_every=4))
    assert [step["score"] is not None for step in sparse] == [False, False, False, True, False, True]
    assert sparse[3]["score"] == plain[3]["score"] and sparse[5]["score"] == plain[5]["score"]
    assert [step["kl_local"] for step in sparse] == [step["kl_local"] for step in plain]


def test_only_weights_of_linear_layers_are_projected_where_that_is_asked_for():
    """The author's published construction: biases, and weights that something else uses too, are left out."""
    shares = train(tiny(projected="linear"))[-1]["removed_by_layer"]
    assert sorted(shares) == ["layers.0.weight", "layers.2.weight", "layers.4.weight"]
    shares = train(tiny_transformer(projected="linear", max_removed=None))[-1]["removed_by_layer"]
    assert len(shares) == 4 * 7 and not any("embed" in name or "norm" in name for name in shares)


def with_batch_norm(**settings):
    """A run whose policy mixes the sequences of a microbatch."""
    training = Training(tiny(**settings))
    training.proma.remove()
    layers = training.policy.layers
    layers[1] = nn.Sequential(nn.BatchNorm1d(layers[0].out_features), layers[1])
    training.optimizer = make_optimizer(training.policy, training.config)
    training.proma = make_proma(training.policy, training.config, training.rule.rule)
    return training


def test_what_mixes_sequences_is_refused_unless_autograd_is_asked_for():
    with pytest.raises(RunError, match="mixes the rows of a batch"):
        list(with_batch_norm().batch())
    for metrics in with_batch_norm(uncovered="autograd").batch():
        assert "layers.1.0.weight" in metrics["removed_by_layer"]
        assert 0 < metrics["removed_ratio"] < 1
