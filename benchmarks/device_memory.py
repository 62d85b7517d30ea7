"""A model of the memory that an optimizer step of the llm tier takes on a GPU, made without one.

    python -m benchmarks.device_memory [--layers 28] [--write]

The step runs on tensors without data, as in `benchmarks.device_cost`: Qwen3-0.6B, bfloat16 over float32 weights,
checkpointed layers, a head in chunks, two microbatches of 8, AdamW with its moments, the frozen copy, and what a run
keeps to measure KL. The bytes of all living tensors are added up, and the largest sum counts. It is a model and no
measurement: it knows nothing of torch's CUDA context (about half a gigabyte), of the libraries' workspaces, of
fragmentation, or of buffers inside of kernels.
"""

from __future__ import annotations

import argparse
import gc
import warnings
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from benchmarks.device_cost import SEQUENCES, Recorder, as_on_a_gpu, qwen3
from docs.marked import between_markers
from proma_bench import Proma
from proma_bench.backward.measure import gpu_limit
from proma_bench.experiments.training import make_optimizer
from proma_bench.language.last_step import LastStep
from proma_bench.language.policy import LanguagePolicy
from proma_bench.language.tokens import TokenDistribution
from proma_bench.learning.experience import Experience
from proma_bench.projection.config import projection_config
from proma_bench.report.markdown import markdown_table
from proma_bench.tiers.llm.config import LLMConfig

STEP = 512
"""Answers in an optimizer step: the run keeps their last hidden states until KL is measured."""
SIZES = ((128, 512, 24), (512, 2048, 80))
"""Tokens of a prompt and of an answer, and GB of a card, on which the workspace depends. The second is the paper's."""
aten = torch.ops.aten


class Live(Recorder):
    """Adds up the bytes of all tensors that were made in it and are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is aten.index_put_.default:  # its rows are chosen by a mask, whose values are not known
            return args[0]
        found = super().__torch_dispatch__(function, types, args, kwargs)
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return found

    def restart(self) -> None:
        """The largest sum from here on."""
        gc.collect()  # what only a cycle of references holds would go at a moment of Python's choice
        self.peak = self.bytes

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        weakref.finalize(storage, self._release, key, size)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


class Memory(NamedTuple):
    """Bytes.

    stays: what is there in a training pass anyway, by name. training, plain: the most in such a pass, with PROMA and
    with plain autograd. measuring: the most after the optimizer step. logits: gradients of logits, a part of
    training. cache: keys and values of one answer in the sampler.
    """

    stays: dict[str, int]
    training: int
    plain: int
    measuring: int
    logits: int
    cache: int


def memory(layers: int, prompt: int, answer: int, card: int) -> Memory:
    """What an optimizer step takes with PROMA, and its training passes with plain autograd."""
    stays, training, measuring = _step(layers, prompt, answer, gpu_limit(card * 10**9))
    _, plain, _ = _step(layers, prompt, answer, None)
    with FakeTensorMode():
        config = qwen3(layers).model.config
    logits = SEQUENCES * answer * config.vocab_size * torch.bfloat16.itemsize
    a_token = 2 * layers * config.num_key_value_heads * config.head_dim * torch.bfloat16.itemsize
    return Memory(stays, training, plain, measuring, logits, (prompt + answer) * a_token)


def _step(layers: int, prompt: int, answer: int, workspace: int | None) -> tuple[dict[str, int], int, int]:
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True), as_on_a_gpu(), Live() as live:
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        config = LLMConfig()
        policy = qwen3(layers)
        frozen = _in_bfloat16(layers)
        optimizer = make_optimizer(policy, config)
        # What was verified in the first microbatch of a structure is not verified again.
        options: dict[str, Any] = {"record": True, "check": False, "workspace_bytes": workspace}
        proma = None if workspace is None else Proma(policy, projection_config(config), **options)
        microbatch = _experience(prompt, answer)
        _pass(policy, microbatch, proma)
        optimizer.step()
        optimizer.zero_grad()

        before = _kept(policy, answer)
        _pass(policy, microbatch, proma)  # the running gradient, to which a second microbatch is added
        stays = {
            "weights, float32": _bytes(policy.parameters()),
            "AdamW's moments, float32": _bytes(value for state in optimizer.state.values() for value in state.values()),
            "running gradient, float32": _bytes(parameter.grad for parameter in policy.parameters()),
            "frozen copy, bfloat16": _bytes(frozen.parameters()),
            "policy before the step, for KL": _bytes([before.hidden, before.head.model.lm_head.weight]),
        }
        live.restart()
        _pass(policy, microbatch, proma)
        training = live.peak
        optimizer.step()
        optimizer.zero_grad()
        live.restart()
        _measure(policy, frozen, before, microbatch)
        return stays, training, live.peak


def _in_bfloat16(layers: int) -> LanguagePolicy:
    """What `LanguagePolicy.frozen` makes; tensors without data cannot be converted in place."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        return qwen3(layers).requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def _experience(prompt: int, answer: int) -> Experience:
    texts = torch.zeros(SEQUENCES, prompt + answer, dtype=torch.long)
    zeros, mask = torch.zeros(SEQUENCES, answer), torch.ones(SEQUENCES, answer, dtype=torch.bool)
    advantages = torch.ones(SEQUENCES)
    return Experience(texts, texts[:, -answer:], zeros, advantages, advantages, mask=mask)


def _pass(policy: LanguagePolicy, experience: Experience, proma: Proma | None) -> None:
    log_probs = policy.on(experience).log_prob(experience.actions).sum(dim=1)
    if proma is None:
        (-(experience.advantages * log_probs).sum()).backward()
    else:
        proma.backward(log_probs, experience.advantages)


@torch.no_grad()
def _kept(policy: LanguagePolicy, answer: int) -> TokenDistribution:
    """What `LanguagePolicy.on` returns without gradients, for all answers of the step."""
    config = policy.model.config
    hidden = torch.empty(STEP * answer, config.hidden_size, dtype=policy.dtype)
    mask = torch.ones(STEP, answer, dtype=torch.bool)
    head = LastStep(policy.model, policy._body, policy.dtype).snapshot()
    return TokenDistribution(hidden, mask, head, config.vocab_size)


@torch.no_grad()
def _measure(policy: LanguagePolicy, frozen: Any, before: TokenDistribution, microbatch: Experience) -> None:
    """Forward passes after the step, and divergences from both policies, whose first chunks are as good as all."""
    answer = microbatch.actions.shape[1]
    after, initial = _kept(policy, answer), _kept(frozen, answer)
    policy._hidden(microbatch, None)
    for other in (before, initial):
        rows, mask = slice(0, 8 * answer), torch.ones(8, answer, dtype=torch.bool)
        first, second = (
            TokenDistribution(found.hidden[rows], mask, found.head, found.vocabulary) for found in (after, other)
        )
        first.divergence(second)


def _bytes(tensors: Iterable[Tensor | None]) -> int:
    """Of tensors, each counted once."""
    return sum({id(tensor): tensor.nbytes for tensor in tensors if tensor is not None}.values())


def table(found: dict[str, Memory]) -> str:
    """One column for each size, in GB; each line of the second part is a sum with all that is above it."""
    columns = list(found.values())
    lines = {name: [memory.stays[name] for memory in columns] for name in columns[0].stays}
    lines |= {
        "activations, gradients of logits, workspace": [m.training - sum(m.stays.values()) for m in columns],
        "of which gradients of logits, bfloat16": [m.logits for m in columns],
        "**together, in a training pass**": [m.training for m in columns],
        "the same with plain autograd": [m.plain for m in columns],
        "**after the step, when KL is measured**": [m.measuring for m in columns],
        "keys and values of one answer in the sampler": [m.cache for m in columns],
    }
    rows = [[name, *(f"{number / 1e9:.2f}" for number in numbers)] for name, numbers in lines.items()]
    return markdown_table(["GB", *found], rows)


PAGE = Path(__file__).parent.parent / "docs" / "llm.md"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--write", action="store_true", help="put the table into docs/llm.md")
    given = parser.parse_args(arguments)
    found = {
        f"{SEQUENCES} × ({prompt} + {answer}) tokens, {card} GB": memory(given.layers, prompt, answer, card)
        for prompt, answer, card in SIZES
    }
    print(text := table(found))
    if given.write:
        replaced = between_markers(PAGE.read_text(), "device memory", text)
        assert replaced is not None, f"{PAGE} has no place for the table"
        PAGE.write_text(replaced)


if __name__ == "__main__":
    main()
