"""The measurements of `benchmarks.gpu_day`, in the order of their value. Each runs in a process of its own.

    python -m benchmarks.gpu_parts PART [--device cuda] [--small]

The last line that is printed is JSON: what was found, by name. They need torch, transformers and jaxtyping, no network
and no files. ``--small`` is a rehearsal: everything in a few seconds on a CPU, in sizes that tell nothing about a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks import microbatches
from benchmarks.memory import peak_bytes
from benchmarks.microbatches import PLAIN
from benchmarks.random_llm import random_llm
from benchmarks.settings import Settings
from benchmarks.timing import interleaved
from benchmarks.works import QWEN3_SIZES, model_cases, sharing_copy
from proma_bench import ProjectionConfig, Proma
from proma_bench.backward.products import has_kernel, stacked_products
from proma_bench.experiments.training import train
from proma_bench.language import tokens
from proma_bench.language.models import checkpoint_layers, tiny_qwen3
from proma_bench.language.policy import LanguagePolicy
from proma_bench.learning.experience import Experience
from proma_bench.projection.fused import fused_settings
from proma_bench.projection.gram import removal

Found = dict[str, Any]
SEQUENCES = 8
METHODS = ("iterative", "exact", "ridge")


@dataclass(frozen=True)
class Size:
    """Of the language model, its texts, and how often contenders are compared."""

    model: dict[str, Any]
    prompt: int
    answer: int
    rounds: int


FULL = Size(QWEN3_SIZES, prompt=128, answer=512, rounds=9)
SMALL = Size(
    {
        "vocab_size": 2000, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    },
    prompt=8, answer=16, rounds=3,
)  # fmt: skip


class Day(NamedTuple):
    """Where and how large."""

    device: torch.device
    size: Size

    @property
    def is_small(self) -> bool:
        return self.size is SMALL


# ---------------------------------------------------------------------------------------------------- correctness


def fused_kernels(day: Day) -> Found:
    """The Triton kernels, or torch where they do not serve, against float64 on the CPU: largest relative error."""
    solves = {method: max(_solve_error(day, method, count) for count in (1, 3, 8, 63)) for method in METHODS}
    gradients = torch.ones(8, 8, device=day.device)
    is_solved = fused_settings(gradients[None], gradients[0, None], ProjectionConfig()) is not None
    is_multiplied = has_kernel(gradients)
    return {
        "solve by": "kernel" if is_solved else "torch",
        **{f"solve, {method}": error for method, error in solves.items()},
        "products by": "kernel" if is_multiplied else "torch",
        "products": max(_product_error(day, count) for count in (1, 3, 8, 63)),
    }


def _solve_error(day: Day, method: str, sequences: int) -> float:
    generator, config = torch.Generator().manual_seed(0), ProjectionConfig(method)
    rows = torch.randn(6, sequences, 200, generator=generator, dtype=torch.float64)
    rows[1, 0], rows[2] = 0, 1e-9 * rows[2]
    overlap = rows @ torch.randn(200, generator=generator, dtype=torch.float64)
    gram, overlap = (rows @ rows.mT).float(), overlap.float()
    advantages = torch.randn(sequences, generator=generator)
    expected = removal(gram, overlap, advantages, config).coefficients.double()
    found = removal(gram.to(day.device), overlap.to(day.device), advantages.to(day.device), config)
    return float((found.coefficients.cpu() - expected).norm() / expected.norm())


def _product_error(day: Day, sequences: int) -> float:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(sequences + 1, 20_000, generator=generator)
    expected = rows.double() @ rows[:-1].double().mT
    found = stacked_products(rows.to(day.device), sequences, rows[-1].to(day.device)).cpu()
    return float((found - expected).norm() / expected.norm())


def precision(day: Day) -> Found:
    """The gradient after three microbatches against float64 on the CPU: relative error, of PROMA and of plain autograd.

    With float32 weights, computed in float32 and in bfloat16, with checkpoints and a head in chunks.
    """
    found: Found = {}
    for projected in (False, True):
        expected = _gradient(torch.device("cpu"), torch.float64, None, projected)
        for dtype in (None, torch.bfloat16):
            gradient = _gradient(day.device, torch.float32, dtype, projected)
            name = f"{'PROMA' if projected else PLAIN}, {'float32' if dtype is None else 'bfloat16'}"
            found[name] = float((gradient - expected).norm() / expected.norm())
    return found


def _gradient(device: torch.device, weights: torch.dtype, dtype: torch.dtype | None, projected: bool) -> Tensor:
    model = tiny_qwen3(61, 64).to(device, weights)
    checkpoint_layers(model)
    policy = LanguagePolicy(model, dtype=dtype)
    proma = Proma(policy, ProjectionConfig()) if projected else None
    with mock.patch.object(tokens, "logits_at_once", lambda hidden: SEQUENCES * 61 * 8):
        for seed in range(3):
            _pass(policy, _experience(61, 12, 24, torch.Generator().manual_seed(seed)).to(device), proma)
    return torch.cat([parameter.grad.double().cpu().flatten() for parameter in policy.parameters()])


def waits(day: Day) -> Found:
    """How often a later microbatch waits for the GPU: at most for the checks of log-probs and advantages."""
    found: Found = {}
    for name, proma, policy, experience in _contenders(day):
        _pass(policy, experience, proma)
        log_probs = policy.on(experience).log_prob(experience.actions).sum(dim=1)
        with _counted_waits(day.device) as waited:
            _backward(log_probs, experience, proma)
        found[name] = len(waited) if day.device.type == "cuda" else "only a GPU is waited for"
    return found


@contextmanager
def _counted_waits(device: torch.device) -> Iterator[list[Any]]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            found[:] = [entry for entry in found if "synchroniz" in str(entry.message)]


# ----------------------------------------------------------------------------------------------------------- cost


def step(day: Day) -> Found:
    """A later microbatch of the llm tier: time in times of plain autograd, and peak memory beyond what was there."""
    return _compared(day)


def long_step(day: Day) -> Found:
    """The same with the lengths of the paper's run."""
    size = day.size if day.is_small else Size(day.size.model, prompt=512, answer=2048, rounds=5)
    return _compared(day._replace(size=size))


def _compared(day: Day) -> Found:
    calls: dict[str, Callable[[], object]] = {}
    for name, proma, policy, experience in _contenders(day):
        calls[name] = lambda policy=policy, experience=experience, proma=proma: _pass(policy, experience, proma)
    timings = interleaved(calls, day.size.rounds, baseline=PLAIN, device=day.device)
    return {
        name: {**timing.to_json(), "peak_bytes": peak_bytes(calls[name], day.device)}
        for name, timing in timings.items()
    }


def kernels(day: Day) -> Found:
    """The number of kernels and copies of a later microbatch, by torch's profiler; on a CPU that of operators."""
    on_gpu = day.device.type == "cuda"
    found: Found = {}
    for name, proma, policy, experience in _contenders(day):
        _pass(policy, experience, proma)
        _pass(policy, experience, proma)
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
            _pass(policy, experience, proma)
            if on_gpu:
                torch.cuda.synchronize()
        events = profiler.events()
        kinds = DeviceType.CUDA if on_gpu else DeviceType.CPU
        found[name] = sum(event.device_type == kinds for event in events)
    return found


def models(day: Day) -> Found:
    """Forward and backward pass of transformers in bfloat16, in times of plain autograd; memory is in other parts."""
    settings = Settings(not day.is_small, day.device, torch.bfloat16)
    found: Found = {}
    for case in model_cases(settings):
        work = case.make()
        original = work.module()
        contenders = {
            PLAIN: microbatches.plain(work, sharing_copy(original)),
            "literal hooks": microbatches.literal(work, sharing_copy(original), "iterative"),
            **{f"PROMA {m}": microbatches.ours(work, sharing_copy(original), m) for m in METHODS[:2]},
        }
        timings = interleaved(contenders, day.size.rounds, baseline=PLAIN, device=day.device)
        found |= {f"{case.name}: {name}": timing.to_json() for name, timing in timings.items()}
    return found


def llm(day: Day) -> Found:
    """A run of the llm tier with random weights: rollouts, scores, optimizer steps, KL."""
    history = train(random_llm(day.size.model, day.size.answer, small=day.is_small))
    names = ("seconds", "tokens", "sampler_gap", "kl_local", "kl_global", "entropy", "removed_ratio", "clamped")
    return {f"step {row['step']}": {name: float(row[name]) for name in names} for row in history}


# ------------------------------------------------------------------------------------------------------- the step


def _contenders(day: Day) -> Iterator[tuple[str, Proma | None, LanguagePolicy, Experience]]:
    """Plain autograd, PROMA, and PROMA that records, on the same weights with gradients of their own."""
    torch.manual_seed(0)
    with day.device:
        model = Qwen3ForCausalLM(Qwen3Config(**day.size.model, tie_word_embeddings=True))
    checkpoint_layers(model)
    generator = torch.Generator().manual_seed(0)
    experience = _experience(day.size.model["vocab_size"], day.size.prompt, day.size.answer, generator).to(day.device)
    attached: dict[str, dict[str, Any] | None] = {PLAIN: None, "PROMA": {}, "PROMA, recording": {"record": True}}
    for name, options in attached.items():
        shared: nn.Module = sharing_copy(model)
        policy = LanguagePolicy(shared, dtype=torch.bfloat16)  # type: ignore[arg-type]
        proma = None if options is None else Proma(policy, ProjectionConfig(max_removed=0.5), **options)
        yield name, proma, policy, experience


def _experience(vocabulary: int, prompt: int, answer: int, generator: torch.Generator) -> Experience:
    texts = torch.randint(vocabulary, (SEQUENCES, prompt + answer), generator=generator)
    mask, zeros = torch.ones(SEQUENCES, answer, dtype=torch.bool), torch.zeros(SEQUENCES, answer)
    advantages = torch.randn(SEQUENCES, generator=generator)
    return Experience(texts, texts[:, -answer:], zeros, advantages, advantages, mask=mask)


def _pass(policy: LanguagePolicy, experience: Experience, proma: Proma | None) -> None:
    _backward(policy.on(experience).log_prob(experience.actions).sum(dim=1), experience, proma)


def _backward(log_probs: Tensor, experience: Experience, proma: Proma | None) -> None:
    if proma is None:
        (-(experience.advantages * log_probs).sum()).backward()
        return
    loss = -log_probs.sum()
    with proma.microbatch(experience.advantages):
        loss.backward()
    proma.clear_stats()


PARTS: dict[str, Callable[[Day], Found]] = {
    "fused-kernels": fused_kernels,
    "precision": precision,
    "step": step,
    "waits": waits,
    "kernels": kernels,
    "llm": llm,
    "models": models,
    "long-step": long_step,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args(arguments)
    day = Day(torch.device(given.device), SMALL if given.small else FULL)
    sys.stdout.write(json.dumps(PARTS[given.part](day)) + "\n")


if __name__ == "__main__":
    main()
