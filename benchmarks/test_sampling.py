"""Generated tokens a second of the tiny Qwen3: our sampler, transformers' `generate`, and a loop without a cache.

And vLLM, where it is installed; the copy of the weights that comes before every batch is in its time.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from transformers import Qwen3ForCausalLM

from benchmarks.settings import Settings
from proma_bench.language.sampling import huggingface
from proma_bench.language.sampling.huggingface import HuggingFaceSampler
from proma_bench.language.sampling.vllm import VLLMSampler
from proma_bench.tiers.transformer.tier import tiny_qwen3

NAIVE, GENERATE, SAMPLER = "naive loop, no cache", "transformers' generate", "sampler: each prompt once"
COPIED, BLOCKS = "cache copied at every token", "sampler: cache grows in blocks"
VLLM = "vLLM, weights copied before"
GROUP, PROMPT_TOKENS, ANSWER_TOKENS = 8, 12, 16


def naive(model: Qwen3ForCausalLM, prompts: torch.Tensor) -> Callable[[], object]:
    """Every token runs the whole text through the model again."""

    @torch.no_grad()
    def call() -> torch.Tensor:
        tokens = prompts.repeat_interleave(GROUP, 0)
        for _ in range(ANSWER_TOKENS):
            probs = model(input_ids=tokens, use_cache=False, logits_to_keep=1).logits[:, -1].softmax(dim=1)
            tokens = torch.cat([tokens, torch.multinomial(probs, 1)], dim=1)
        return tokens

    return call


def generate(model: Qwen3ForCausalLM, prompts: torch.Tensor) -> Callable[[], object]:
    mask = torch.ones_like(prompts)
    options = {"do_sample": True, "top_k": 0, "eos_token_id": None, "pad_token_id": 0}
    return lambda: model.generate(
        prompts, attention_mask=mask, num_return_sequences=GROUP, max_new_tokens=ANSWER_TOKENS, **options
    )


def sampler(model: Qwen3ForCausalLM, prompts: torch.Tensor, answer_tokens: int = ANSWER_TOKENS) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    lists = prompts.tolist()
    return lambda: HuggingFaceSampler(model, [], answer_tokens).sample(lists, GROUP, generator)


def copying_sampler(model: Qwen3ForCausalLM, prompts: torch.Tensor, answer_tokens: int) -> Callable[[], object]:
    sample = sampler(model, prompts, answer_tokens)

    def call() -> object:
        with mock.patch.object(huggingface, "make_growing", lambda cache: None):
            return sample()

    return call


def vllm(model: Qwen3ForCausalLM, prompts: torch.Tensor) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    lists = prompts.tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing it warns of what torch has deprecated
        sampler = VLLMSampler(model, [], ANSWER_TOKENS, PROMPT_TOKENS + ANSWER_TOKENS)
    return lambda: sampler.sample(lists, GROUP, generator)


def test_sampling(compare: Any, benchmark: Any, settings: Settings) -> None:
    """Answers of equal length, none of which ends by itself."""
    batch = 256 if settings.full else 64
    model = tiny_qwen3(257, 256).to(settings.device)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(257, (batch // GROUP, PROMPT_TOKENS), generator=generator).to(settings.device)
    contenders = {
        NAIVE: naive(model, prompts), GENERATE: generate(model, prompts), SAMPLER: sampler(model, prompts),
    }  # fmt: skip
    if importlib.util.find_spec("vllm"):
        contenders[VLLM] = vllm(model, prompts)
    result = compare(f"sampling: {batch} answers at once", "sampling", contenders, NAIVE)
    tokens = batch * ANSWER_TOKENS
    benchmark.extra_info["rates"] = {name: round(tokens / timing.seconds) for name, timing in result.items()}
    assert result[SAMPLER].ratio < result[GENERATE].ratio, "the sampler is to be faster than the library's"


def test_key_value_cache(compare: Any, settings: Settings) -> None:
    """Longer answers: what a cache costs that is copied at every token."""
    batch, length = (64, 256) if settings.full else (16, 48)
    model = tiny_qwen3(257, 512).to(settings.device)
    prompts = torch.randint(257, (batch // GROUP, PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    contenders = {COPIED: copying_sampler(model, prompts, length), BLOCKS: sampler(model, prompts, length)}
    compare(f"cache: {batch} answers of {length} tokens", "cache", contenders, COPIED)
