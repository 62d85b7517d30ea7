"""What lies between hidden states and logits is the model's own: scales, caps, biases, further layers."""

import copy

import policy_zoo
import pytest
import torch
import zoo
from oracle import Micro, oracle_gradients
from tiny_configs import VOCABULARY
from torch.distributions import kl_divergence

from proma_bench import ProjectionConfig, Proma
from proma_bench.language import tokens
from proma_bench.language.last_step import LastStep, body_of
from proma_bench.language.policy import LanguagePolicy
from proma_bench.learning.experience import PADDING

CLASSES = {
    "BertLMHeadModel": "a dense layer, a norm and a bias of its own",
    "CohereForCausalLM": "a factor",
    "GPT2LMHeadModel": "nothing",
    "Gemma2ForCausalLM": "a cap",
    "GraniteForCausalLM": "a divisor",
    "MiniCPM3ForCausalLM": "a divisor of the hidden states",
    "Qwen3ForCausalLM": "nothing",
}


@pytest.fixture(scope="module", params=CLASSES)
def model(request):
    return policy_zoo.built(request.param)


@pytest.fixture(params=[3 * VOCABULARY, 2**24], ids=["chunks", "whole"])
def chunk(request, monkeypatch):
    monkeypatch.setattr(tokens, "CHUNK", request.param)


@pytest.fixture
def wide(monkeypatch):
    """Float64 to the end, also where chunks are computed again in a backward pass."""
    log_prob = tokens.TrainedTokens._log_prob

    def wide_log_prob(*arguments):
        with zoo.WideFloats():
            return log_prob(*arguments)

    monkeypatch.setattr(tokens.TrainedTokens, "_log_prob", wide_log_prob)
    with zoo.precision(torch.float64):
        yield


def test_log_probs_are_the_models_own(model, chunk, wide):
    assert policy_zoo.padded_error(model) < 1e-9


@pytest.mark.parametrize("name", ["CohereForCausalLM", "GPT2LMHeadModel", "Gemma2ForCausalLM"])
def test_packed_log_probs_and_those_of_samples_are_the_models_own(name, wide):
    model = policy_zoo.built(name)
    assert policy_zoo.packed_error(model) < 1e-9
    assert policy_zoo.sampler_error(model) < 1e-9


def test_the_gradient_of_a_first_microbatch_is_the_plain_policy_gradient(model, chunk, wide):
    experience, trained = policy_zoo.texts(), copy.deepcopy(model)
    policy = LanguagePolicy(trained, prefix=policy_zoo.PREFIX)

    def log_prob(module, number):
        text, answer = experience.observations[number], int(experience.mask[number].sum())
        text = torch.cat([torch.tensor(policy_zoo.PREFIX), text[text != PADDING]])
        return policy_zoo.own_log_probs(module, text[:-answer], text[-answer:]).sum()

    expected = oracle_gradients(model, [Micro(log_prob, experience.advantages)], ProjectionConfig("exact"))
    with Proma(policy, ProjectionConfig("exact")) as proma:
        log_probs = policy.on(experience).log_prob(experience.actions)
        proma.backward(experience.per_sequence(log_probs), experience.advantages)
    error, where = zoo.worst_error(trained, expected)
    assert error < 1e-6, where


@torch.no_grad()
def test_a_measured_distribution_is_that_of_its_moment_while_proma_is_attached(model, wide):
    model, experience = copy.deepcopy(model), policy_zoo.texts()
    policy = LanguagePolicy(model)
    with Proma(policy, ProjectionConfig("exact")):
        before = policy.on(experience)
        log_probs, entropy = before.log_prob(experience.actions), before.entropy()
        for parameter in policy.parameters():
            parameter.mul_(1.5)
        after = policy.on(experience)
    assert torch.equal(before.log_prob(experience.actions), log_probs)
    assert torch.equal(before.entropy(), entropy)
    assert not torch.allclose(after.log_prob(experience.actions), log_probs)
    assert kl_divergence(before, after).max() > 1e-3


def test_a_frozen_copy_in_bfloat16_is_the_same_policy(model):
    policy = LanguagePolicy(copy.deepcopy(model).float(), dtype=torch.bfloat16)
    experience = policy_zoo.texts()
    with torch.no_grad():
        ours, frozen = policy.on(experience), policy.frozen().on(experience)
        exact = LanguagePolicy(policy.model).on(experience)
    for distribution in (ours, frozen):
        assert kl_divergence(exact, distribution).max() < 0.02
    trained = policy.on(experience).log_prob(experience.actions).detach()
    measured = ours.log_prob(experience.actions)
    torch.testing.assert_close(trained[experience.mask], measured[experience.mask], rtol=0, atol=0.05)


def test_logits_are_what_the_head_returns_where_nothing_follows(chunk):
    """No copy of them is made: they are the largest tensor of a run."""
    model = policy_zoo.built("Qwen3ForCausalLM", torch.float32)
    heads = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: heads.append(output))
    for last_step in (LastStep(model, body_of(model)), LastStep(model, body_of(model)).snapshot()):
        logits = last_step(torch.randn(2, 3, model.config.hidden_size))
        assert logits is heads.pop() and not heads


def test_the_body_is_what_the_models_own_forward_calls(model):
    """Whatever the class calls it; that of OPT is a part of its base model."""
    assert model.get_submodule(body_of(model)) is model.base_model
    assert body_of(policy_zoo.built("OPTForCausalLM")) == "model.decoder"
    assert not any(module._forward_pre_hooks for module in model.modules())
