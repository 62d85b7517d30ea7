"""vLLM's engine, a real model, and what a sampler owes, in tests."""

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from proma_bench.language.sampling.vllm import VLLMSampler
from proma_bench.learning.experience import PADDING


def needs_vllm():
    """Skips the test where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed; tox -e vllm installs it")


def vllm_sampler(model, ends, max_new_tokens, context_length):
    """Skips the test where vLLM is not installed. Importing it warns of what torch has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        needs_vllm()
        return VLLMSampler(model, ends, max_new_tokens, context_length)


def smollm2(tmp_path_factory):
    """The directory of a model of 135 million parameters: PROMA_BENCH_SMOLLM2, or made now. Skips without either.

    Also without vLLM, before a model is made that nobody would use.
    """
    needs_vllm()
    if "PROMA_BENCH_SMOLLM2" in os.environ:
        return os.environ["PROMA_BENCH_SMOLLM2"]
    tool = Path(__file__).parents[3] / "shared/tools/make_smollm2.py"
    if not tool.exists():
        pytest.skip(f"needs SmolLM2-135M-Instruct in PROMA_BENCH_SMOLLM2; there is no {tool} that makes it")
    directory = str(tmp_path_factory.mktemp("models") / "smollm2")
    subprocess.run([sys.executable, str(tool), directory], check=True)
    return directory


def assert_log_probs_are_the_models(model, rollout):
    """The log-probs of answers, computed on the whole text at once and without a cache."""
    for prompt, answer, log_probs in zip(rollout.prompts, rollout.answers, rollout.log_probs, strict=True):
        prompt, answer = prompt[prompt != PADDING], answer[answer != PADDING]
        with torch.no_grad():
            logits = model(input_ids=torch.cat([prompt, answer]).unsqueeze(0)).logits[0].log_softmax(dim=1)
        expected = logits[len(prompt) - 1 : -1].gather(1, answer.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(log_probs[: len(answer)], expected, rtol=1e-4, atol=1e-4)
