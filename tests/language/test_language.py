"""A language model's distributions, padded, packed and alone; and its gradients on its own rollouts."""

import dataclasses

import pytest
import torch
from small_runs import tiny_transformer

from proma_bench import ProjectionConfig, Proma, accumulate
from proma_bench.experiments.training import Training
from proma_bench.language.policy import LanguagePolicy
from proma_bench.learning.experience import PADDING, Experience
from proma_bench.learning.update import optimizer_step
from proma_bench.tiers.transformer.tier import tiny_qwen3


def texts(prompts=(3, 1, 5, 2), answers=(1, 4, 2, 3), vocabulary=20):
    """Sequences of unequal prompts and answers."""
    generator = torch.Generator().manual_seed(0)
    width, rows = max(answers), len(prompts)
    observations = torch.full((rows, max(prompts) + width), PADDING)
    for row, prompt, answer in zip(observations, prompts, answers, strict=True):
        start = max(prompts) - prompt
        row[start : max(prompts) + answer] = torch.randint(vocabulary, (prompt + answer,), generator=generator)
    actions = observations[:, -width:]
    numbers = torch.randn(rows, generator=generator)
    zeros = torch.zeros(actions.shape)
    return Experience(observations, actions.clamp_min(0), zeros, numbers, numbers, mask=actions != PADDING)


@pytest.fixture(scope="module")
def model():
    return tiny_qwen3(20, 32).double()


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_a_sequence_has_the_log_probs_that_it_has_alone(model, packed):
    experience = texts()
    together = LanguagePolicy(model, packed).on(experience).log_prob(experience.actions)
    for number in range(len(experience)):
        tokens = experience.observations[number]
        tokens, answer = tokens[tokens != PADDING], int(experience.mask[number].sum())
        logits = model(input_ids=tokens.unsqueeze(0)).logits[0].double().log_softmax(dim=1)
        expected = logits[-answer - 1 : -1].gather(1, tokens[-answer:].unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(together[number, :answer].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("projection", [ProjectionConfig(), ProjectionConfig("exact", max_removed=None)])
def test_packed_sequences_have_the_gradients_of_padded_ones(projection):
    gradients = []
    for packed in (False, True):
        policy = LanguagePolicy(tiny_qwen3(20, 32).double(), packed)
        with Proma(policy, projection) as proma:
            for part in texts().microbatches(2, None):
                log_probs = part.per_sequence(policy.on(part).log_prob(part.actions))
                proma.backward(log_probs, part.advantages, policy.sequence_ids(part))
        gradients.append([parameter.grad for parameter in policy.parameters()])
    for padded, packed in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5 * float(padded.abs().max()))


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("loss_aggregation", ["token-mean", "sequence-mean", "sum"])
def test_an_optimizer_step_on_its_own_rollouts_is_the_literal_one_in_float64(packed, loss_aggregation):
    """Microbatches of real answers, against one sequence at a time, autograd, and the projection written out."""
    config = tiny_transformer(packed=packed, loss_aggregation=loss_aggregation, group_size=4)
    training = Training(config)
    experience = training.sample()
    advantages = torch.randn(len(experience), generator=torch.Generator().manual_seed(0))  # few answers were right
    experience = dataclasses.replace(experience, advantages=advantages)
    parts = experience.microbatches(config.microbatch_size, torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in training.policy.named_parameters()}

    oracle = LanguagePolicy(training.policy.model, packed=False)
    oracle = type(oracle)(tiny_qwen3(training.policy.model.config.vocab_size, config.context_length).double())
    oracle.load_state_dict(training.policy.state_dict())
    running = [None] * len(list(oracle.parameters()))
    for part in parts:
        rows = []
        for number in range(len(part)):
            one = part.select(torch.tensor([number]))
            log_probs = one.per_sequence(_log_prob(oracle, one))
            weight = {"token-mean": 1 / experience.rows, "sum": 1 / len(experience)}.get(
                loss_aggregation, 1 / (one.rows * len(experience))
            )
            rows.append(torch.autograd.grad(log_probs.sum() * weight, list(oracle.parameters())))
        for index, seq_grads in enumerate(zip(*rows, strict=True)):
            stacked = torch.stack(seq_grads)
            running[index] = accumulate(running[index], stacked, part.advantages.double(), ProjectionConfig())

    optimizer = torch.optim.SGD(training.policy.parameters(), lr=1.0)
    optimizer_step(training.policy, optimizer, parts, config, training.proma)
    for (name, parameter), expected in zip(training.policy.named_parameters(), running, strict=True):
        change = (parameter.detach() - before[name]).double()
        largest = float(expected.abs().max())
        assert (change - expected).abs().max() <= 2e-3 * largest, name


def _log_prob(policy, experience):
    """In float64 to the end, which `LanguagePolicy` is not."""
    width = experience.actions.shape[1]
    tokens = experience.observations[:, :-1]
    logits = policy.model(input_ids=tokens, logits_to_keep=width).logits
    return logits.log_softmax(dim=2).gather(2, experience.actions.unsqueeze(2)).squeeze(2)


def test_selected_texts_lose_columns_that_are_all_padding_and_keep_their_log_probs(model):
    experience, policy = texts(), LanguagePolicy(model)
    whole = policy.on(experience).log_prob(experience.actions)
    part = experience.select(torch.tensor([0, 3]))
    assert part.observations.shape == (2, 3 + 3) and part.mask.shape == (2, 3)
    alone = policy.on(part).log_prob(part.actions)
    expected = whole[[0, 3], :3]
    torch.testing.assert_close(alone[part.mask], expected[part.mask])
    joined = Experience.join([part, experience.select(torch.tensor([1, 2]))])
    again = policy.on(joined).log_prob(joined.actions)
    torch.testing.assert_close(joined.per_sequence(again), experience.per_sequence(whole)[[0, 3, 1, 2]])
