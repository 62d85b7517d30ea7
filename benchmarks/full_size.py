"""Optimizer steps of PROMA on the architecture of Qwen3-0.6B, with random weights, on a CPU: does it fit, how long?

    python -m benchmarks.full_size [--tokens 32]

It is a process of its own, because what it reports is the most that it ever had in memory (the peak resident set,
weights, gradient, moments, frozen copy, Python and all). Two optimizer steps, since only the second has moments from
its beginning; each of two microbatches of two sequences, in bfloat16 over float32 weights and with gradient
checkpointing, as the llm rung has them. The last line is JSON; seconds and figures are those of the second step.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from proma_bench import metrics
from proma_bench.config import LLMConfig
from proma_bench.experience import Experience
from proma_bench.language import LanguagePolicy
from proma_bench.models import checkpoint_layers
from proma_bench.train import make_optimizer, make_proma
from proma_bench.update import optimizer_step

PARAMETERS = 596_049_920
SEQUENCES, MICROBATCH = 4, 2


def qwen3() -> Qwen3ForCausalLM:
    """Qwen3-0.6B without its weights."""
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    checkpoint_layers(model)
    return model


def experience(tokens: int) -> Experience:
    """Prompts and answers of ``tokens`` random tokens each."""
    generator = torch.Generator().manual_seed(0)
    observations = torch.randint(151_936, (SEQUENCES, 2 * tokens), generator=generator)
    numbers = torch.randn(SEQUENCES, generator=generator)
    mask = torch.ones(SEQUENCES, tokens, dtype=torch.bool)
    zeros = torch.zeros(SEQUENCES, tokens)
    return Experience(observations, observations[:, -tokens:], zeros, numbers, numbers, mask=mask)


def steps(tokens: int, count: int = 2) -> dict[str, float]:
    """What a run does between samples: measure, update, measure. Seconds of each, and what they found."""
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - started

    config = LLMConfig(microbatch_size=MICROBATCH)
    with timed("make"):
        policy = LanguagePolicy(qwen3(), dtype=torch.bfloat16)
        assert sum(parameter.numel() for parameter in policy.parameters()) == PARAMETERS
        initial, optimizer, proma = policy.frozen(), make_optimizer(policy, config), make_proma(policy, config)
        whole = experience(tokens)
    for _ in range(count):
        with torch.no_grad(), timed("measure before"):
            before = policy.on(whole)
            whole = dataclasses.replace(whole, old_log_probs=before.log_prob(whole.actions))
        with timed("update"):
            found = optimizer_step(policy, optimizer, whole.microbatches(MICROBATCH, None), config, proma)
        with torch.no_grad(), timed("measure after"):
            after, frozen = policy.on(whole), initial.on(whole)
            kl_local, kl_global = metrics.kl(before, after, whole), metrics.kl(after, frozen, whole)
        del before, after, frozen
    numbers = {name: float(found[name]) for name in ("grad_norm", "removed_ratio", "clamped")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes on Linux
    return {"peak_gib": peak, **seconds, "kl_local": kl_local, "kl_global": kl_global, **numbers}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32, help="of a prompt, and of an answer")
    print(json.dumps(steps(parser.parse_args().tokens)))
