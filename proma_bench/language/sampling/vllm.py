"""A sampler with vLLM, in the process of the trainer, with the weights of the trainer.

An engine starts with the config of the model alone. The weights are copied from the model, in place, at the beginning
of every call: no checkpoint is read or written, and the weights are always up to date. On a GPU an engine uses memory
only while it samples. vLLM does not release all the memory of an engine, so a process keeps one engine per set of
options and uses it again.

A batch has one seed. With a seed for each prompt, vLLM would draw tokens for one answer after another, in Python.
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

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from proma_bench import files
from proma_bench.errors import RunError, UsageError
from proma_bench.language.sampling import Prompts, Rollout, padded_left
from proma_bench.learning.experience import PADDING

CPU_CACHE = 2**30
"""Size of the key-value cache in bytes without a GPU. vLLM's variable VLLM_CPU_KVCACHE_SPACE, in GiB, has priority."""


class VLLMSampler:
    """Generates answers with the current weights of the model."""

    def __init__(
        self,
        model: PreTrainedModel,
        stop_token_ids: Collection[int],
        max_new_tokens: int,
        context_length: int,
        gpu_memory_utilization: float = 0.8,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Start the engine, unless the process already has it. This takes seconds on a CPU and longer on a GPU.

        Args:
            model: the language model.
            stop_token_ids: tokens that end an answer.
            max_new_tokens: length in tokens at which answers are cut off.
            context_length: largest number of tokens in a prompt and its answer together.
            gpu_memory_utilization: share of the GPU's memory that the engine uses while it samples.
            dtype: type of the engine, see `proma_bench.language.precision`; None is the type of the model.

        Raises:
            UsageError: vLLM is not installed.
            RunError: the engine cannot start.
        """
        self.model, self.max_new_tokens = model, max_new_tokens
        self._stop_token_ids, self._longest_prompt = sorted(stop_token_ids), context_length - max_new_tokens
        config = copy.deepcopy(model.config)
        config.architectures = [type(model).__name__]
        self._engine = _engine(config.to_json_string(), dtype or model.dtype, context_length, gpu_memory_utilization)

    def sample(self, prompts: Prompts, samples: int, generator: torch.Generator | None) -> Rollout:
        """Generate answers.

        The same prompts and the same state of the generator give the same answers.

        Args:
            prompts: the prompts.
            samples: number of answers per prompt.
            generator: for sampling at temperature 1; None gives greedy answers.

        Returns:
            The answers.

        Raises:
            UsageError: a prompt is too long for ``context_length`` together with the longest answer.
            RunError: vLLM still processes answers of a call that was interrupted.
        """
        longest = max(map(len, prompts))
        if longest > self._longest_prompt:
            raise UsageError(f"a prompt has {longest} tokens of at most {self._longest_prompt}; raise context_length")
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        settings = self._settings(samples, greedy=generator is None)
        with _awake(self._engine), _seeded(generator):
            self._copy_weights()
            requests = self._engine.generate(inputs, settings, use_tqdm=False)
        completions = [
            completion
            for request in requests
            for completion in request.outputs * (samples // len(request.outputs))  # one greedy answer stands for all
        ]
        answers = [torch.tensor(completion.token_ids) for completion in completions]
        log_probs = [torch.tensor(completion.logprobs.logprobs) for completion in completions]
        return Rollout(
            padded_left(prompts).repeat_interleave(samples, 0),
            pad_sequence(answers, batch_first=True, padding_value=PADDING),
            pad_sequence(log_probs, batch_first=True),
            torch.tensor([completion.finish_reason == "stop" for completion in completions]),
        )

    def _settings(self, samples: int, greedy: bool) -> Any:
        """The settings for all prompts. Only the log-probs of the drawn tokens are returned."""
        from vllm import SamplingParams

        choice = {"temperature": 0} if greedy else {"temperature": 1, "n": samples}
        return SamplingParams(
            max_tokens=self.max_new_tokens, stop_token_ids=self._stop_token_ids, ignore_eos=True, detokenize=False,
            logprobs=0, flat_logprobs=True, **choice,
        )  # fmt: skip

    def _copy_weights(self) -> None:
        weights = iter(self.model.state_dict().items())
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if not self._engine.reset_prefix_cache():
            raise RunError("vLLM still works on answers that were interrupted; start the run again")


@contextlib.contextmanager
def _awake(engine: Any) -> Iterator[None]:
    """On a GPU, give memory to the engine and free it afterwards. The trainer's unused memory is released before."""
    if not _on_gpu():
        with torch.compiler.set_stance("force_eager"):  # otherwise vLLM compiles a comparison for 20 s
            yield
        return
    torch.cuda.empty_cache()
    engine.wake_up()
    try:
        yield
    finally:
        engine.sleep(level=2)


@contextlib.contextmanager
def _seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Seed the global generators of torch and numpy, from which vLLM draws, and restore their states afterwards."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**32, (), generator=generator, device=generator.device))
    state = np.random.get_state()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if _on_gpu() else []):
            torch.manual_seed(seed)
            np.random.seed(seed)
            yield
    finally:
        np.random.set_state(state)


@functools.cache
def _engine(config: str, dtype: torch.dtype, context_length: int, gpu_memory_utilization: float) -> Any:
    """vLLM's ``LLM`` for an architecture, with meaningless weights; in sleep mode on a GPU."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine runs in this process, so weights need no transfer
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        from vllm import LLM
    except ImportError as error:
        raise UsageError(f"rollouts from vLLM need it installed: python -m pip install vllm ({error})") from None
    settings: dict[str, Any] = {
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # no settings except those of the sampler
        "logprobs_mode": "raw_logprobs",  # log-probs at temperature 1, also for greedy answers
        "enable_prefix_caching": True,
        "dtype": dtype,
        "max_model_len": context_length,
    }
    if _on_gpu():
        settings |= {"enable_sleep_mode": True, "gpu_memory_utilization": gpu_memory_utilization}
    else:
        settings |= {"enforce_eager": True, "kv_cache_memory_bytes": CPU_CACHE}
        settings["block_size"] = 32  # the minimum; the default does not share prefixes below 128 tokens
    with tempfile.TemporaryDirectory() as directory:
        files.write(Path(directory), "config.json", config.encode())
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
