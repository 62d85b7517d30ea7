"""Optimizer steps of PROMA on the architecture of Qwen3-0.6B, with random weights: does it fit, how long?

    python -m benchmarks.full_size [--device cuda] [--tokens 32] [--json benchmarks/results/cpu-full-size.json]

It is a process of its own, because what it reports is the most that it ever had in memory: on a CPU the peak resident
set, weights, gradient, moments, frozen copy, Python and all; on a GPU the most that torch had allocated there. Two
optimizer steps, since only the second has moments from its beginning; each of two microbatches of two sequences, in
bfloat16 over float32 weights and with gradient checkpointing, as the llm tier has them. The last line is JSON; seconds
and figures are those of the second step. ``--json`` stores them in the format of the suites' results, from which
``python -m benchmarks.report`` makes its page.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.settings import Settings, machine
from benchmarks.works import QWEN3_SIZES
from proma_bench.experiments.training import make_optimizer, make_proma
from proma_bench.language.models import checkpoint_layers
from proma_bench.language.policy import LanguagePolicy
from proma_bench.learning import divergences as metrics
from proma_bench.learning.experience import Experience
from proma_bench.learning.update import optimizer_step
from proma_bench.tiers.llm.config import LLMConfig

PARAMETERS = 596_049_920
SEQUENCES, MICROBATCH = 4, 2
DTYPE = torch.bfloat16


def qwen3() -> Qwen3ForCausalLM:
    """Qwen3-0.6B without its weights."""
    config = Qwen3Config(
        **QWEN3_SIZES,
        max_position_embeddings=40_960,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    checkpoint_layers(model)
    return model


def experience(tokens: int, device: torch.device) -> Experience:
    """Prompts and answers of ``tokens`` random tokens each."""
    generator = torch.Generator().manual_seed(0)
    observations = torch.randint(QWEN3_SIZES["vocab_size"], (SEQUENCES, 2 * tokens), generator=generator)
    numbers = torch.randn(SEQUENCES, generator=generator)
    mask = torch.ones(SEQUENCES, tokens, dtype=torch.bool)
    zeros = torch.zeros(SEQUENCES, tokens)
    whole = Experience(observations, observations[:, -tokens:], zeros, numbers, numbers, mask=mask)
    return whole.to(device)


def steps(tokens: int, device: torch.device, count: int = 2) -> dict[str, float]:
    """What a run does between samples: measure, update, measure. Seconds of each, and what they found."""
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - started

    config = LLMConfig(microbatch_size=MICROBATCH)
    with timed("make"):
        policy = LanguagePolicy(qwen3().to(device), dtype=DTYPE)
        assert sum(parameter.numel() for parameter in policy.parameters()) == PARAMETERS
        initial, optimizer, proma = policy.frozen(), make_optimizer(policy, config), make_proma(policy, config)
        whole = experience(tokens, device)
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
    return {"peak_gib": _peak(device), **seconds, "kl_local": kl_local, "kl_global": kl_global, **numbers}


def _peak(device: torch.device) -> float:
    """GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes on Linux


def record(found: dict[str, float], tokens: int, device: torch.device, arguments: Sequence[str]) -> dict[str, Any]:
    """What was found, as one case of a results file: with the machine, the versions, the commit and the command."""
    from pytest_benchmark.utils import get_commit_info  # who stores nothing needs no pytest

    settings = Settings(full=True, device=device, dtype=DTYPE)
    case = f"full size: Qwen3-0.6B, {SEQUENCES} × {2 * tokens}"
    info = {"case": case, "suite": "full size", "form": settings.form, "device": settings.device.type, **found}
    commit = get_commit_info()
    return {
        "machine_info": machine(settings),
        "commit_info": {name: commit[name] for name in ("id", "dirty")},
        "benchmarks": [{"extra_info": info}],
        "datetime": datetime.now(UTC).isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks.full_size", *arguments]),
        "form": settings.form,
    }


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tokens", type=int, default=32, help="of a prompt, and of an answer")
    parser.add_argument("--json", type=Path, help="where to store the results")
    given = parser.parse_args(arguments)
    if given.json and not given.json.parent.is_dir():  # said now, not after minutes
        parser.error(f"--json: there is no folder {given.json.parent}")
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU that torch can use")
    found = steps(given.tokens, device)
    if given.json:
        given.json.write_text(json.dumps(record(found, given.tokens, device, arguments), indent=4) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
