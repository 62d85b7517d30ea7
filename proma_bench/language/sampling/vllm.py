"""Answers from vLLM, in the trainer's own process, with the trainer's own weights.

An engine starts from the model's config alone. Its weights are copied from the model, in place, before anything is
sampled: no checkpoint is read or written, and the copy cannot be forgotten. On a GPU an engine holds memory only while
it samples. vLLM does not release everything that an engine allocates, so a process keeps one engine of each kind.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from proma_bench.errors import RunError, UsageError
from proma_bench.language.sampling import Prompts, Rollout, padded_left
from proma_bench.learning.experience import PADDING

CPU_CACHE = 2**30
"""Bytes of keys and values where there is no GPU; vLLM's own VLLM_CPU_KVCACHE_SPACE, in GiB, goes before it."""


class VLLMSampler:
    """Samples from the weights that the model has at that moment."""

    def __init__(
        self,
        model: PreTrainedModel,
        stop_token_ids: Collection[int],
        max_new_tokens: int,
        context_length: int,
        gpu_memory_utilization: float = 0.8,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Start the engine, unless the process has one already; this takes seconds on a CPU and longer on a GPU.

        Args:
            stop_token_ids: tokens that end an answer.
            max_new_tokens: where answers are cut off.
            context_length: of a prompt and the longest answer together.
            gpu_memory_utilization: the share of a GPU's memory that the engine takes to sample.
            dtype: of the engine, see `precision`; None is the model's.

        Raises:
            UsageError: vLLM is not installed.
            RunError: the engine does not start.
        """
        self.model, self.max_new_tokens = model, max_new_tokens
        self._stop_token_ids, self._longest_prompt = sorted(stop_token_ids), context_length - max_new_tokens
        config = copy.deepcopy(model.config)
        config.architectures = [type(model).__name__]
        self._engine = _engine(config.to_json_string(), dtype or model.dtype, context_length, gpu_memory_utilization)

    def sample(self, prompts: Prompts, samples: int, generator: torch.Generator | None) -> Rollout:
        """``samples`` answers to each prompt at temperature 1, or for no generator the greedy ones.

        Every prompt has its own seed, so that apart from rounding its answers do not depend on the other prompts.

        Raises:
            UsageError: a prompt leaves no room for the longest answer.
        """
        longest = max(map(len, prompts))
        if longest > self._longest_prompt:
            raise UsageError(f"a prompt has {longest} tokens of at most {self._longest_prompt}; raise context_length")
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        settings = self._settings(len(prompts), samples, generator)
        with _awake(self._engine):
            self._copy_weights()
            requests = self._engine.generate(inputs, settings, use_tqdm=False)
        completions = [
            completion
            for request in requests
            for completion in request.outputs * (samples // len(request.outputs))  # there is one greedy answer
        ]
        answers = [torch.tensor(completion.token_ids) for completion in completions]
        log_probs = [torch.tensor(completion.logprobs.logprobs) for completion in completions]
        return Rollout(
            padded_left(prompts).repeat_interleave(samples, 0),
            pad_sequence(answers, batch_first=True, padding_value=PADDING),
            pad_sequence(log_probs, batch_first=True),
            torch.tensor([completion.finish_reason == "stop" for completion in completions]),
        )

    def _settings(self, prompts: int, samples: int, generator: torch.Generator | None) -> list[Any]:
        """One for each prompt. The log-probs are of the token drawn and of no other."""
        from vllm import SamplingParams

        common = {"max_tokens": self.max_new_tokens, "stop_token_ids": self._stop_token_ids, "ignore_eos": True}
        common |= {"detokenize": False, "logprobs": 0, "flat_logprobs": True}
        if generator is None:
            return [SamplingParams(temperature=0, **common) for _ in range(prompts)]
        seeds = torch.randint(2**62, (prompts,), generator=generator, device=generator.device).tolist()
        return [SamplingParams(temperature=1, n=samples, seed=seed, **common) for seed in seeds]

    def _copy_weights(self) -> None:
        weights = iter(self.model.state_dict().items())
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if not self._engine.reset_prefix_cache():
            raise RunError("vLLM still works on answers that were interrupted; start the run again")


@contextlib.contextmanager
def _awake(engine: Any) -> Iterator[None]:
    """On a GPU the engine has memory only in here. It keeps nothing, and the trainer's unused memory is freed."""
    if not _on_gpu():
        with torch.compiler.set_stance("force_eager"):  # vLLM compiles a comparison, which takes 20 s
            yield
        return
    torch.cuda.empty_cache()
    engine.wake_up()
    try:
        yield
    finally:
        engine.sleep(level=2)


@functools.cache
def _engine(config: str, dtype: torch.dtype, context_length: int, gpu_memory_utilization: float) -> Any:
    """vLLM's ``LLM`` for an architecture, with meaningless weights; asleep on a GPU."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights do not travel between processes
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        from vllm import LLM
    except ImportError as error:
        raise UsageError(f"rollouts from vLLM need it installed: python -m pip install vllm ({error})") from None
    settings: dict[str, Any] = {
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # of answers, nothing but what the sampler sets
        "logprobs_mode": "raw_logprobs",  # at temperature 1, of greedy answers, too
        "enable_prefix_caching": True,
        "dtype": dtype,
        "max_model_len": context_length,
    }
    if _on_gpu():
        settings |= {"enable_sleep_mode": True, "gpu_memory_utilization": gpu_memory_utilization}
    else:
        settings |= {"enforce_eager": True, "kv_cache_memory_bytes": CPU_CACHE}
        settings["block_size"] = 32  # the least there is; by default the first 128 tokens of prompts are not shared
        settings["enable_chunked_prefill"] = False  # rewinds seeded generators, which those of a CPU cannot
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "config.json").write_text(config)
        try:
            engine = LLM(directory, **settings)
        except (ValueError, RuntimeError) as error:
            raise RunError(f"vLLM does not start: {' '.join(str(error).split())}") from error
    if _on_gpu():
        engine.sleep(level=2)
    return engine


def _on_gpu() -> bool:
    """Whether vLLM runs on a GPU; the installed build decides."""
    from vllm.platforms import current_platform

    return current_platform.is_cuda()
