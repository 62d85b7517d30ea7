"""vLLM's engine beside the trainer: always the trainer's weights, and the same samples from the same generator.

What it has in common with the other sampler is tested in test_rollout.py.
"""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from small_engines import assert_log_probs_are_the_models, smollm2, vllm_sampler
from small_runs import tiny_transformer
from transformers import AutoModelForCausalLM, AutoTokenizer

from proma_bench.errors import RunError, UsageError
from proma_bench.experiments.training import Training
from proma_bench.language.sampling.huggingface import HuggingFaceSampler
from proma_bench.language.sampling.vllm import VLLMSampler
from proma_bench.tiers.transformer.tier import Transformer, tiny_qwen3

VOCABULARY, ENDS, LIMIT, CONTEXT = 50, [0, 3], 10, 96


def random_qwen3(seed: int):
    """Weights so large that one answer has little to do with another."""
    model = tiny_qwen3(VOCABULARY, CONTEXT)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def prompts(*lengths: int) -> list[list[int]]:
    """They begin with the same tokens."""
    tokens = torch.randint(VOCABULARY, (max(lengths),), generator=torch.Generator().manual_seed(0)).tolist()
    return [[*tokens[: length - 1], number] for number, length in enumerate(lengths)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_same(ours, theirs):
    assert torch.equal(ours.answers, theirs.answers)
    assert torch.equal(ours.finished, theirs.finished)
    torch.testing.assert_close(ours.log_probs, theirs.log_probs, rtol=0, atol=1e-3)


def test_what_is_sampled_comes_from_the_models_weights_at_that_moment():
    """Of prompts that begin alike and are longer than a block of cached keys and values."""
    model, questions = random_qwen3(0), prompts(40, 70, 86)
    ours, theirs = vllm_sampler(model, ENDS, LIMIT, CONTEXT), HuggingFaceSampler(model, ENDS, LIMIT)
    before = ours.sample(questions, 1, None)
    assert_same(before, theirs.sample(questions, 1, None))
    model.load_state_dict(random_qwen3(1).state_dict())
    after = ours.sample(questions, 1, None)
    assert_same(after, theirs.sample(questions, 1, None))
    assert not torch.equal(before.answers, after.answers)


def test_models_of_one_architecture_share_an_engine_and_nothing_else():
    first, second = (vllm_sampler(random_qwen3(seed), ENDS, LIMIT, CONTEXT) for seed in (0, 1))
    assert first._engine is second._engine
    for sampler in (first, second, first):
        expected = HuggingFaceSampler(sampler.model, ENDS, LIMIT).sample(prompts(5, 9), 1, None)
        assert_same(sampler.sample(prompts(5, 9), 1, None), expected)


def test_a_batch_is_drawn_with_one_seed(monkeypatch):
    """More prompts than the engine takes in at once; a seed for each would make vLLM draw for one after another."""
    sampler, given = vllm_sampler(random_qwen3(0), ENDS, LIMIT, CONTEXT), []
    generate = sampler._engine.generate
    monkeypatch.setattr(
        sampler._engine, "generate", lambda *args, **options: given.append(args) or generate(*args, **options)
    )
    questions = [*prompts(7, 60), *prompts(80) * 100]
    first, again, other = (sampler.sample(questions, 4, seeded(seed)) for seed in (0, 0, 1))
    assert all(settings.seed is None for _, settings in given)
    assert torch.equal(first.answers, again.answers)
    assert not torch.equal(first.answers, other.answers)
    assert len({tuple(answer) for answer in first.answers[8:].tolist()}) > 300, "no answer is drawn twice"


def test_sampling_leaves_the_trainers_random_numbers_as_they_are():
    sampler, found = vllm_sampler(random_qwen3(0), ENDS, LIMIT, CONTEXT), []
    for samples in (0, 4):
        torch.manual_seed(5)
        np.random.seed(5)
        if samples:
            sampler.sample(prompts(7, 60), samples, seeded())
        found.append((torch.rand(3).tolist(), np.random.rand(3).tolist()))
    assert found[0] == found[1]


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused():
    sampler = vllm_sampler(random_qwen3(0), ENDS, LIMIT, CONTEXT)
    assert sampler.sample(prompts(CONTEXT - LIMIT), 2, seeded()).mask.any()
    with pytest.raises(UsageError, match="87 tokens of at most 86"):
        sampler.sample(prompts(4, CONTEXT - LIMIT + 1), 2, seeded())


def test_an_engine_that_was_interrupted_is_not_used_again(monkeypatch):
    """It would go on with the old answers, and give them as the new ones."""
    sampler = vllm_sampler(random_qwen3(0), ENDS, LIMIT, CONTEXT - 1)  # an engine that no other test has
    step = sampler._engine.llm_engine.step

    def interrupted():
        step()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sampler._engine.llm_engine, "step", interrupted)
        sampler.sample(prompts(40, 70), 2, seeded())
    with pytest.raises(RunError, match="interrupted"):
        sampler.sample(prompts(5), 1, None)


def test_bfloat16_samples_in_bfloat16():
    model = random_qwen3(0).to(torch.bfloat16)
    rollout = vllm_sampler(model, ENDS, LIMIT, CONTEXT).sample(prompts(5, 9), 8, seeded())
    tokens = torch.cat([rollout.prompts, rollout.answers], dim=1)[:8]  # those of the shorter prompt
    with torch.no_grad():
        logits = model(tokens[:, -LIMIT - 5 :].clamp_min(0)).logits.float().log_softmax(dim=2)
    expected = logits[:, 4:-1].gather(2, rollout.answers[:8].clamp_min(0).unsqueeze(2)).squeeze(2)
    gap = (rollout.log_probs[:8] - expected)[rollout.mask[:8]].abs()
    assert 1e-6 < gap.max() < 0.2


def test_what_keeps_the_engine_from_starting_is_one_line():
    with pytest.raises(RunError, match=r"^vLLM does not start: .*max_model_len.*$") as caught:
        vllm_sampler(random_qwen3(0), ENDS, LIMIT, context_length=CONTEXT + 1)
    assert "\n" not in str(caught.value)


def test_without_vllm_there_is_one_line_that_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UsageError, match=r"^rollouts from vLLM need it installed: python -m pip install vllm \(.*\)$"):
        VLLMSampler(tiny_qwen3(7, 9), ENDS, LIMIT, context_length=9)


class Recorded:
    """A sampler that keeps what it sampled last."""

    def __init__(self, sampler):
        self.sampler = sampler

    def sample(self, *arguments):
        self.rollout = self.sampler.sample(*arguments)
        return self.rollout


class WithVLLM(Transformer):
    """The third tier with the other sampler, and with rewards that differ, though no such small model is right.

    gaps: between the sampler's and the policy's log-probs, the largest of each batch.
    """

    def __init__(self, config):
        super().__init__(config)
        self.gaps = []

    def sample(self, policy, generators):
        experience = super().sample(policy, generators)
        difference = self.recorded.rollout.log_probs - experience.old_log_probs
        self.gaps.append(float(difference[experience.mask].abs().max()))
        return dataclasses.replace(experience, rewards=torch.linspace(-1, 1, len(experience)))

    def _sampler(self, policy):
        config = self.config
        self.recorded = Recorded(vllm_sampler(policy.model, [self._end], config.max_new_tokens, config.context_length))
        return self.recorded


def test_proma_trains_on_answers_of_vllm():
    """At a learning rate at which the weights of one batch earlier would be far off."""
    config = tiny_transformer(method="proma", learning_rate=1e-2, warmup_steps=0)
    training = Training(config)
    training.tier = WithVLLM(config)
    history = [step for _ in range(2) for step in training.batch()]
    assert [step["step"] for step in history] == [1, 2, 3, 4]
    assert all(step["kl_local"] > 1e-3 for step in history)
    assert len(training.tier.gaps) == 2 and max(training.tier.gaps) < 1e-3


def test_a_real_model_answers_as_in_transformers(tmp_path_factory):
    """Before and after a step that changes what it says."""
    directory = smollm2(tmp_path_factory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    shots = "".join(f"{a} + {b} = {a + b}\n" for a, b in [(12, 35), (47, 8), (60, 21), (33, 5)])
    questions = tokenizer([f"{shots}{a} + {b} =" for a, b in [(21, 34), (8, 57), (73, 19)]])["input_ids"]
    ends = [tokenizer.eos_token_id, *tokenizer("\n")["input_ids"]]
    ours, theirs = vllm_sampler(model, ends, 12, 128), HuggingFaceSampler(model, ends, 12)
    before = ours.sample(questions, 1, None)
    assert_same(before, theirs.sample(questions, 1, None))
    assert tokenizer.decode(before.answers[0][before.mask[0]]) == " 55\n"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * parameter.std() * torch.randn(parameter.shape, generator=seeded(1))
    after = ours.sample(questions, 1, None)
    assert_same(after, theirs.sample(questions, 1, None))
    assert not torch.equal(before.answers, after.answers)
    sampled = ours.sample(questions, 4, seeded())
    assert_log_probs_are_the_models(model, sampled)
