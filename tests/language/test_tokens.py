"""Distributions made a few rows at a time are those that are made at once."""

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, kl_divergence

from proma_bench import ProjectionConfig, Proma
from proma_bench.language import tokens
from proma_bench.language.tokens import TokenDistribution, TrainedTokens

SEQUENCES, LENGTH, WIDTH, VOCABULARY = 3, 5, 8, 11


@pytest.fixture(params=[1, 2 * VOCABULARY, SEQUENCES * VOCABULARY * 2, 2**20], ids=lambda size: f"chunks of {size}")
def chunk(request, monkeypatch):
    monkeypatch.setattr(tokens, "CHUNK", request.param)


def parts(seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(SEQUENCES, LENGTH, WIDTH, generator=generator)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
    mask = torch.arange(LENGTH) < torch.tensor([[2], [5], [0]])
    actions = torch.randint(VOCABULARY, (SEQUENCES, LENGTH), generator=generator)
    return hidden, head, mask, actions


@torch.no_grad()
def test_measurements_are_those_of_the_whole_distribution(chunk):
    (hidden, head, mask, actions), (others, other_head, _, _) = parts(), parts(1)
    mine = TokenDistribution(hidden[mask], mask, head, VOCABULARY)
    other = TokenDistribution(others[mask], mask, other_head, VOCABULARY)
    whole, whole_other = Categorical(logits=head(hidden)), Categorical(logits=other_head(others))
    for measured, expected in (
        (mine.log_prob(actions), whole.log_prob(actions)),
        (mine.entropy(), whole.entropy()),
        (kl_divergence(mine, other), kl_divergence(whole, whole_other)),
    ):
        torch.testing.assert_close(measured, torch.where(mask, expected, 0.0))


@torch.no_grad()
def test_answers_without_a_row_measure_nothing(chunk):
    hidden, head, mask, actions = parts()
    empty = TokenDistribution(hidden[:0].reshape(0, WIDTH), torch.zeros_like(mask), head, VOCABULARY)
    assert not empty.entropy().any() and not empty.log_prob(actions).any() and not kl_divergence(empty, empty).any()


def test_log_probs_and_their_projected_gradients_do_not_depend_on_the_chunks(chunk):
    hidden, head, mask, actions = parts()
    gradients = {}
    for name in ("chunks", "whole"):
        head.zero_grad()
        with Proma(head, ProjectionConfig("exact")) as proma:
            for shift in range(2):
                if name == "chunks":
                    log_probs = TrainedTokens(hidden + shift, head, VOCABULARY).log_prob(actions)
                else:
                    log_probs = Categorical(logits=head(hidden + shift)).log_prob(actions)
                sums = torch.where(mask, log_probs, 0.0).sum(dim=1)
                proma.backward(sums, torch.tensor([1.0, -2.0, 0.5]))
        gradients[name] = head.weight.grad.clone()
    torch.testing.assert_close(gradients["chunks"], gradients["whole"], rtol=1e-4, atol=1e-5)
