"""The sampler's contract: what comes out is what the model says, whichever answers end when."""

import pytest
import torch

from proma_bench.experience import PADDING
from proma_bench.rollout import padded_left
from proma_bench.rollout.huggingface import HuggingFaceSampler
from proma_bench.tiers.transformer import tiny_qwen3

VOCABULARY, ENDS, LIMIT = 12, [0, 3], 7
PROMPTS = [[5, 6], [1, 2, 4, 5, 9], [8], [7, 7, 7]]


@pytest.fixture(scope="module")
def model():
    model = tiny_qwen3(VOCABULARY, 32)
    with torch.no_grad():  # so that what was read decides what comes next
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(3 if "embed" in name else 5)
    return model


def sample(model, samples=6, seed=0, prompts=PROMPTS, **options):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return HuggingFaceSampler(model, ENDS, LIMIT, **options).sample(prompts, samples, generator)


def test_prompts_come_back_with_the_samples_of_each_side_by_side(model):
    rollout = sample(model)
    assert torch.equal(rollout.prompts, padded_left(PROMPTS).repeat_interleave(6, dim=0))
    assert len(rollout.answers) == len(rollout.log_probs) == len(rollout.finished) == 24
    assert len({tuple(answer) for answer in rollout.answers.tolist()}) > 12


def test_an_answer_ends_once_with_one_of_the_ends_or_at_the_limit(model):
    rollout = sample(model, samples=50)
    for answer, finished in zip(rollout.answers.tolist(), rollout.finished.tolist(), strict=True):
        tokens = [token for token in answer if token != PADDING]
        assert answer[: len(tokens)] == tokens, "padding only at the end"
        assert not any(token in ENDS for token in tokens[:-1])
        assert finished == (tokens[-1] in ENDS)
        assert finished or len(tokens) == LIMIT
    assert 0 < rollout.finished.sum() < len(rollout.finished)
    assert not rollout.log_probs[~rollout.mask].any()


@pytest.mark.parametrize("at_once", [1, 7, 512])
def test_log_probs_are_those_of_the_whole_text_without_a_cache(model, at_once):
    """However early others of the batch ended, and however many there were at once."""
    rollout = sample(model, samples=20, sequences_at_once=at_once)
    for prompt, answer, log_probs in zip(rollout.prompts, rollout.answers, rollout.log_probs, strict=True):
        prompt, answer = prompt[prompt != PADDING], answer[answer != PADDING]
        with torch.no_grad():
            logits = model(input_ids=torch.cat([prompt, answer]).unsqueeze(0)).logits[0].log_softmax(dim=1)
        expected = logits[len(prompt) - 1 : -1].gather(1, answer.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(log_probs[: len(answer)], expected, rtol=1e-4, atol=1e-4)


def test_greedy_answers_are_those_of_transformers_generate(model):
    rollout = sample(model, samples=1, seed=None)
    for prompt, answer in zip(PROMPTS, rollout.answers, strict=True):
        tokens = torch.tensor([prompt])
        generated = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=LIMIT,
            eos_token_id=ENDS, pad_token_id=ENDS[0],
        )  # fmt: skip
        assert answer[answer != PADDING].tolist() == generated[0, len(prompt) :].tolist()


def test_first_tokens_are_drawn_with_the_models_probabilities(model):
    """40,000 draws; all of five standard deviations hold together but once in 100,000 seeds, and the seed is fixed."""
    count = 40_000
    first = sample(model, samples=count, prompts=[[5, 6]]).answers[:, 0]
    with torch.no_grad():
        probs = model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].softmax(dim=0)
    shares = torch.bincount(first, minlength=VOCABULARY) / count
    assert ((shares - probs).abs() <= 5 * (probs * (1 - probs) / count).sqrt()).all()


def test_the_same_generator_gives_the_same_answers(model):
    assert torch.equal(sample(model, seed=3).answers, sample(model, seed=3).answers)
    assert not torch.equal(sample(model, seed=3).answers, sample(model, seed=4).answers)
