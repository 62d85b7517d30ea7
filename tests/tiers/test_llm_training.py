"""Training a pretrained language model: gradients, precision, and what happens when the memory does not suffice."""

import copy
import dataclasses

import pytest
import torch
from oracle import Micro, assert_gradients, oracle_gradients
from small_models import save_tiny, tiny_llm

from proma_bench import ProjectionConfig
from proma_bench.errors import RunError
from proma_bench.experiments.training import Training, train
from proma_bench.language import tokens
from proma_bench.language.models import Pretrained
from proma_bench.language.policy import LanguagePolicy
from proma_bench.language.sampling.huggingface import HuggingFaceSampler
from proma_bench.learning.experience import PADDING


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("base"), chat=False)


def sampled(config):
    """A policy, its experience with advantages that are not zero, and its microbatches."""
    training = Training(config)
    experience = training.sample()
    advantages = torch.randn(len(experience), generator=torch.Generator().manual_seed(0))
    experience = dataclasses.replace(experience, advantages=advantages)
    return training, experience.microbatches(config.microbatch_size, torch.Generator().manual_seed(1))


def literal(policy, prefix, part):
    """A sequence's log-prob in float64: prefix, prompt and answer alone through the model, nothing cached."""

    def log_prob(module, number):
        row = part.observations[number]
        answer = int(part.mask[number].sum())
        text = torch.cat([torch.tensor(prefix, dtype=row.dtype), row[row != PADDING]])
        logits = module(input_ids=text.unsqueeze(0)).logits[0].log_softmax(dim=1)
        return logits[-answer - 1 : -1].gather(1, text[-answer:].unsqueeze(1)).sum()

    return Micro(log_prob, part.advantages)


@pytest.mark.parametrize("few_shot", [0, 2], ids=["chat", "few-shot"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("dtype, relative", [("float32", 2e-3), ("bfloat16", 0.15)])
def test_the_gradient_is_the_literal_one_in_float64(few_shot, checkpointing, dtype, relative, model, monkeypatch):
    """Chunks of two rows; the prefix, where there is one, in every sequence; one sequence at a time as the oracle."""
    monkeypatch.setattr(tokens, "CHUNK", 2 * 257)
    config = tiny_llm(model, few_shot=few_shot, gradient_checkpointing=checkpointing, dtype=dtype)
    training, parts = sampled(config)
    prefix = training.tier.answers.prompting.prefix
    oracle = copy.deepcopy(training.initial.model).requires_grad_(True).double() if dtype == "float32" else None
    if oracle is None:
        oracle = Pretrained(model, None).model().double()
    expected = oracle_gradients(oracle, [literal(oracle, prefix, part) for part in parts[:3]], ProjectionConfig())
    for part in parts[:3]:
        log_probs = part.per_sequence(training.policy.on(part).log_prob(part.actions))
        training.proma.backward(log_probs, part.advantages)
    assert_gradients(training.policy.model, expected, relative)


def test_a_constant_prefix_is_an_approximation_of_the_gradient_and_not_of_the_log_probs(model):
    config = tiny_llm(model, gradient_checkpointing=False)
    gradients, log_probs = {}, {}
    for constant in (False, True):
        training, parts = sampled(dataclasses.replace(config, constant_few_shot=constant))
        found = parts[0].per_sequence(training.policy.on(parts[0]).log_prob(parts[0].actions))
        training.proma.backward(found, parts[0].advantages)
        log_probs[constant] = found.detach()
        gradients[constant] = torch.cat([p.grad.flatten() for p in training.policy.parameters()])
    torch.testing.assert_close(log_probs[True], log_probs[False], rtol=1e-4, atol=1e-4)
    error = (gradients[True] - gradients[False]).norm() / gradients[False].norm()
    assert 0.01 < error < 1


# -------------------------------------------------------------------------------------------------- precision


def test_computing_in_bfloat16_leaves_weights_gradients_and_moments_in_float32(model):
    training = Training(tiny_llm(model, dtype="bfloat16"))
    list(training.batch())
    state = training.optimizer.state.values()
    assert all(parameter.dtype == torch.float32 for parameter in training.policy.parameters())
    assert all(moments[name].dtype == torch.float32 for moments in state for name in ("exp_avg", "exp_avg_sq"))


def test_a_step_of_the_papers_rate_changes_float32_weights_and_not_bfloat16_ones():
    weight = torch.full((4,), 0.02)
    assert torch.equal(weight.bfloat16() - 2e-6, weight.bfloat16())
    assert not torch.equal(weight - 2e-6, weight)


def test_the_frozen_copy_is_half_the_size_and_the_same_policy(model):
    training = Training(tiny_llm(model, dtype="bfloat16"))
    experience = training.sample()
    assert {parameter.dtype for parameter in training.initial.parameters() if parameter.ndim == 2} == {torch.bfloat16}
    with torch.no_grad():
        ours = training.policy.on(experience).log_prob(experience.actions)
        frozen = training.initial.on(experience).log_prob(experience.actions)
    torch.testing.assert_close(frozen, ours, rtol=0, atol=0.1)


# ----------------------------------------------------------------------------------------------------- memory


class Full:
    """A method that runs out of memory whenever it gets more than so many sequences."""

    def __init__(self, function, most, position):
        self.function, self.most, self.position = function, most, position

    def __call__(self, *arguments):
        if len(arguments[self.position]) > self.most:
            raise torch.OutOfMemoryError
        return self.function(*arguments)


def test_generation_goes_on_with_half_as_many_prompts(model, monkeypatch):
    whole = train(tiny_llm(model, steps=2))
    full = Full(HuggingFaceSampler._answers, 1, 1)
    monkeypatch.setattr(HuggingFaceSampler, "_answers", lambda *arguments: full(*arguments))
    halved = train(tiny_llm(model, steps=2))
    assert [step["sequences"] for step in halved] == [step["sequences"] for step in whole]
    full.most = 0
    with pytest.raises(
        RunError, match="out of memory while 3 answers to one prompt are generated; lower max_new_tokens"
    ):
        train(tiny_llm(model, steps=2))


def test_a_training_pass_that_does_not_fit_names_the_settings_to_change(model, monkeypatch):
    hidden = LanguagePolicy._hidden

    def full(self, *arguments):
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError
        return hidden(self, *arguments)

    monkeypatch.setattr(LanguagePolicy, "_hidden", full)
    message = r"a training pass of \d+ sequences; turn on gradient_checkpointing, or lower max_new_tokens, or lower mi"
    with pytest.raises(RunError, match=message):
        train(tiny_llm(model, gradient_checkpointing=False, max_removed=None))
