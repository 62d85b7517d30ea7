"""A model of what a microbatch costs on a GPU, made without one: which kernels run, on how many bytes and numbers.

    python -m benchmarks.device_cost [--layers 28] [--answers 512 2048] [--write]

Forward and backward pass of Qwen3-0.6B as the llm tier has it (bfloat16 over float32 weights, checkpointed layers, a
head in chunks) run on tensors without data. Every operation that is more than a view counts as one kernel, which takes

    max(bytes / bandwidth, operations / peak, launch)

with the figures of `GPU`, roughly those of an H100. It is a model and no measurement: it knows nothing of caches,
occupancy, fused kernels, or of Python. It is exact in what it counts, so tests hold PROMA to it.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.works import QWEN3_SIZES
from docs.marked import between_markers
from proma_bench import Proma
from proma_bench.backward import factors, measure, products
from proma_bench.language import tokens
from proma_bench.language.models import checkpoint_layers
from proma_bench.language.policy import LanguagePolicy
from proma_bench.learning.config import RunConfig
from proma_bench.learning.experience import Experience
from proma_bench.projection import fused
from proma_bench.projection.config import projection_config
from proma_bench.report.markdown import markdown_table

SEQUENCES, PROMPT = 8, 128
aten = torch.ops.aten


class Device(NamedTuple):
    """Bytes per second, multiplications and additions per second by type, seconds of the shortest kernel, and bytes."""

    bandwidth: float
    peaks: dict[torch.dtype, float]
    launch: float
    memory: int


GPU = Device(3.0e12, {torch.bfloat16: 600e12, torch.float32: 50e12, torch.float64: 25e12}, 4e-6, 80 * 10**9)


class Kernel(NamedTuple):
    """One kernel: its operation, the type of its arguments, its arithmetic and its traffic."""

    name: str
    dtype: torch.dtype | None
    operations: int
    bytes: int

    def seconds(self, device: Device) -> float:
        """What it takes by the model."""
        peak = device.peaks.get(self.dtype or torch.float32, device.peaks[torch.float32])
        return max(self.bytes / device.bandwidth, self.operations / peak, device.launch)


class Cost(NamedTuple):
    """What some code does on a device."""

    kernels: list[Kernel]
    waits: int

    def seconds(self, device: Device = GPU) -> float:
        return sum(kernel.seconds(device) for kernel in self.kernels)

    def operations(self, dtype: torch.dtype) -> int:
        return sum(kernel.operations for kernel in self.kernels if kernel.dtype == dtype)

    @property
    def bytes(self) -> int:
        return sum(kernel.bytes for kernel in self.kernels)


class Recorder(TorchDispatchMode):
    """Notes the kernels of everything that runs in it; what would wait for the device gets the answer 1."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []
        self.waits = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (aten._local_scalar_dense.default, aten.is_nonzero.default):
            self.waits += 1
            return 1
        if function is aten.equal.default:
            self.waits += 1
            return True
        found = function(*args, **kwargs)
        if not _is_free(function):
            self.kernels.append(_kernel(function, args, kwargs, found))
        return found

    @property
    def cost(self) -> Cost:
        return Cost(self.kernels, self.waits)


_FREE = {
    aten.promote_types,
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.detach,
    aten._unsafe_view,
    aten.lift_fresh,
}


def _is_free(function: Any) -> bool:
    """Whether it moves no data: views, and memory without content."""
    if function.namespace == "prim" or function._overloadpacket in _FREE:
        return True
    returned = [value.alias_info for value in function._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)


_PRODUCTS = {aten.mm: 0, aten.bmm: 0, aten.addmm: 1, aten.addmm_: 1, aten.baddbmm: 1, aten.baddbmm_: 1}
"""Products of matrices, and the place of the first one among the arguments."""
_ROWS = {aten.embedding, aten.index_select, aten.index, aten.gather}  # read as much as they write


def _kernel(function: Any, args: Any, kwargs: Any, found: Any) -> Kernel:
    packet = function._overloadpacket
    inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    outputs = [value for value in tree_leaves(found) if isinstance(value, Tensor)]
    if packet in _PRODUCTS:
        factors = args[_PRODUCTS[packet] :][:2]
        operations, dtype = int(2 * factors[0].numel() * factors[1].shape[-1]), factors[0].dtype
    elif packet is torch.ops.proma_bench.fused_products:
        operations, dtype = 2 * products.padded(args[0]) ** 2 * args[0].shape[1], args[0].dtype
    else:
        counts: Any = flop_registry.get(packet)  # attention
        operations = 0 if counts is None else int(counts(*args, **kwargs, out_val=found))
        dtype = next((value.dtype for value in inputs if value.is_floating_point()), None)
    read = outputs if packet in _ROWS else [value for value in inputs if value is not kwargs.get("out")]
    if packet in (aten.index_add_, aten.index_add):
        read = outputs = inputs[1:]
    return Kernel(str(packet), dtype, operations, _traffic(read) + _traffic(outputs))


def _traffic(tensors: Sequence[Tensor]) -> int:
    """Bytes of these tensors; a Gram matrix is a product of a matrix with itself, whose memory counts once."""
    largest: dict[tuple[int, int], int] = {}
    for tensor in tensors:
        place = (tensor.untyped_storage()._cdata, int(tensor.storage_offset()))
        largest[place] = max(largest.get(place, 0), _bytes(tensor))
    return sum(largest.values())


def _bytes(tensor: Tensor) -> int:
    """What is read of it: an axis that is only expanded is read once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * math.prod(size for size, stride in sizes if stride)


# ------------------------------------------------------------------------------------------------ what is measured


def qwen3(layers: int) -> LanguagePolicy:
    """Qwen3-0.6B, or some of its layers, as the llm tier trains it."""
    model = Qwen3ForCausalLM(Qwen3Config(**QWEN3_SIZES | {"num_hidden_layers": layers}, tie_word_embeddings=True))
    checkpoint_layers(model)
    return LanguagePolicy(model, dtype=torch.bfloat16)


def costs(layers: int, answer: int) -> dict[str, Cost]:
    """Forward and backward pass of a second microbatch: of plain autograd, of PROMA, and of PROMA that records."""
    return {
        "plain autograd": _cost(layers, answer, None),
        "PROMA": _cost(layers, answer, {}),
        "PROMA, recording": _cost(layers, answer, {"record": True}),
    }


def _cost(layers: int, answer: int, options: dict[str, Any] | None) -> Cost:
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True), as_on_a_gpu(), Recorder() as recorder:
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        policy = qwen3(layers)
        texts = torch.zeros(SEQUENCES, PROMPT + answer, dtype=torch.long)
        zeros, mask = torch.zeros(SEQUENCES, answer), torch.ones(SEQUENCES, answer, dtype=torch.bool)
        advantages = torch.ones(SEQUENCES)
        experience = Experience(texts, texts[:, -answer:], zeros, advantages, advantages, mask=mask)
        # What was verified in the first microbatch of a structure is not verified again.
        proma = None if options is None else Proma(policy, projection_config(RunConfig()), check=False, **options)
        for _ in range(2):
            recorder.kernels.clear()
            recorder.waits = 0
            log_probs = policy.on(experience).log_prob(experience.actions).sum(dim=1)
            if proma is None:
                (-(advantages * log_probs).sum()).backward()  # type: ignore[no-untyped-call]
            else:
                proma.backward(log_probs, advantages)
    return recorder.cost


@torch.library.custom_op("device_cost::rms_norm", mutates_args=())
def fused_rms_norm(x: Tensor) -> Tensor:
    """What is one kernel on a GPU, and several on a CPU."""
    raise NotImplementedError("it is counted, not computed")


fused_rms_norm.register_fake(torch.empty_like)


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Engine and torch choose as they would on a GPU; tensors without data that require gradients are on a CPU."""
    with ExitStack() as patches:
        for module, name, value in (
            (factors, "has_mixed_products", lambda _: True),
            (factors, "at_once", lambda _: factors.AT_ONCE * factors.GPU_FACTOR),
            (measure, "BLOCK_BYTES", 2**62),
            (measure, "default_limit", lambda _: measure.gpu_limit(GPU.memory)),
            (products, "has_kernel", lambda seq_grads: seq_grads.dtype == torch.float32),
            (tokens, "logits_at_once", lambda _: tokens.CHUNK * tokens.GPU_FACTOR),
            (fused, "has_kernel", lambda _: True),
            (functional, "rms_norm", lambda x, shape, weight=None, eps=None: fused_rms_norm(x)),
        ):
            patches.enter_context(mock.patch.object(module, name, value))
        yield


def table(found: dict[str, Cost]) -> str:
    """One row for each contender, in times of the first."""
    baseline = next(iter(found.values()))
    rows = [
        [
            name,
            f"{1e3 * cost.seconds():.0f}",
            f"{cost.seconds() / baseline.seconds():.2f}",
            f"{len(cost.kernels):,}",
            f"{cost.operations(torch.float32) / 1e12:.2f}",
            f"{cost.operations(torch.bfloat16) / 1e12:.2f}",
            f"{cost.bytes / 1e9:.0f}",
            f"{cost.waits}",
        ]
        for name, cost in found.items()
    ]
    header = ["", "ms by the model", "ratio", "kernels", "float32, 10^12", "bfloat16, 10^12", "GB", "waits"]
    return markdown_table(header, rows)


PAGE = Path(__file__).parent.parent / "docs" / "gpu.md"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--answers", type=int, nargs="+", default=[512, 2048], help="tokens of an answer")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/gpu.md")
    given = parser.parse_args(arguments)
    parts = []
    for answer in given.answers:
        parts += [
            f"{given.layers} layers, {SEQUENCES} × ({PROMPT} + {answer}) tokens:",
            table(costs(given.layers, answer)),
        ]
        print(*parts[-2:], sep="\n\n", end="\n\n", flush=True)
    if given.write:
        replaced = between_markers(PAGE.read_text(), "device cost", "\n\n".join(parts))
        assert replaced is not None, f"{PAGE} has no place for the tables"
        PAGE.write_text(replaced)


if __name__ == "__main__":
    main()
