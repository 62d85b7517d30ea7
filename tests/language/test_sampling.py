"""The samplers' contract: what comes out is what the model says, whichever answers end when."""

import pytest
import torch
from small_engines import assert_log_probs_are_the_models, vllm_sampler

from proma_bench.language.sampling import Sampler, padded_left
from proma_bench.language.sampling.huggingface import HuggingFaceSampler
from proma_bench.learning.experience import PADDING
from proma_bench.tiers.transformer.tier import tiny_qwen3

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


@pytest.fixture(scope="module", params=["huggingface", "vllm"])
def sampler(model, request):
    if request.param == "huggingface":
        return HuggingFaceSampler(model, ENDS, LIMIT)
    return vllm_sampler(model, ENDS, LIMIT, context_length=32)


def sample(sampler, samples=6, seed=0, prompts=PROMPTS):
    return sampler.sample(prompts, samples, None if seed is None else torch.Generator().manual_seed(seed))


def test_prompts_come_back_with_the_samples_of_each_side_by_side(sampler):
    assert isinstance(sampler, Sampler)
    rollout = sample(sampler)
    assert torch.equal(rollout.prompts, padded_left(PROMPTS).repeat_interleave(6, dim=0))
    assert len(rollout.answers) == len(rollout.log_probs) == len(rollout.finished) == 24
    assert len({tuple(answer) for answer in rollout.answers.tolist()}) > 12


def test_an_answer_ends_once_with_one_of_the_ends_or_at_the_limit(sampler):
    rollout = sample(sampler, samples=50)
    lengths = rollout.mask.sum(dim=1)
    for answer, length, finished in zip(rollout.answers.tolist(), lengths, rollout.finished, strict=True):
        tokens = [token for token in answer if token != PADDING]
        assert answer[:length] == tokens, "padding only at the end"
        assert not any(token in ENDS for token in tokens[:-1])
        assert finished == (tokens[-1] in ENDS)
        assert finished or len(tokens) == LIMIT
    assert 0 < rollout.finished.sum() < len(rollout.finished)
    assert {1, LIMIT} <= set(lengths[rollout.finished].tolist()), "nothing but an end, and an end at the limit"
    assert not rollout.log_probs[~rollout.mask].any()


def test_log_probs_are_those_of_the_whole_text_without_a_cache(model, sampler):
    for seed, samples in ((0, 20), (None, 2)):
        assert_log_probs_are_the_models(model, sample(sampler, samples, seed))


@pytest.mark.parametrize("at_once", [1, 7])
def test_log_probs_do_not_depend_on_how_many_sequences_there_are_at_once(model, at_once):
    """However early others of the batch ended."""
    sampler = HuggingFaceSampler(model, ENDS, LIMIT, sequences_at_once=at_once)
    assert_log_probs_are_the_models(model, sample(sampler, samples=20))


def test_greedy_answers_are_those_of_transformers_generate(model, sampler):
    rollout = sample(sampler, samples=2, seed=None)
    for prompt, answers in zip(PROMPTS, rollout.answers.split(2), strict=True):
        tokens = torch.tensor([prompt])
        generated = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=LIMIT,
            eos_token_id=ENDS, pad_token_id=ENDS[0],
        )  # fmt: skip
        for answer in answers:
            assert answer[answer != PADDING].tolist() == generated[0, len(prompt) :].tolist()


def test_first_tokens_are_drawn_with_the_models_probabilities(model, sampler):
    """All of five standard deviations hold together but once in 100,000 seeds, and the seed is fixed."""
    count = 10_000
    first = sample(sampler, samples=count, prompts=[[5, 6]]).answers[:, 0]
    with torch.no_grad():
        probs = model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].softmax(dim=0)
    shares = torch.bincount(first, minlength=VOCABULARY) / count
    assert ((shares - probs).abs() <= 5 * (probs * (1 - probs) / count).sqrt()).all()


def test_the_same_generator_gives_the_same_answers(sampler):
    assert torch.equal(sample(sampler, seed=3).answers, sample(sampler, seed=3).answers)
    assert not torch.equal(sample(sampler, seed=3).answers, sample(sampler, seed=4).answers)


@pytest.mark.parametrize("shared", [0, 1, 9])
def test_what_all_prompts_begin_with_goes_through_the_model_once(model, shared, monkeypatch):
    """The answers are those of prompts one by one, and the first pass has the shared tokens, in one row."""
    prompts = [[4] * shared + prompt for prompt in PROMPTS]
    alone = torch.cat([_padded(HuggingFaceSampler(model, ENDS, LIMIT).sample([p], 1, None).answers) for p in prompts])
    passes = []
    forward = type(model.model).forward

    def counted(self, input_ids, **options):
        passes.append(tuple(input_ids.shape))
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(type(model.model), "forward", counted)
    together = HuggingFaceSampler(model, ENDS, LIMIT).sample(prompts, 1, None)
    assert torch.equal(_padded(together.answers), alone)
    longest = max(map(len, PROMPTS))
    assert passes[: 1 + (shared > 0)] == [(1, shared)] * (shared > 0) + [(len(prompts), longest)]
    assert_log_probs_are_the_models(model, together)


def _padded(answers):
    return torch.nn.functional.pad(answers, (0, LIMIT - answers.shape[1]), value=PADDING)
