"""What the engine computes and keeps, counted, and what it chooses by counting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from backward_policies import Classifier, initialise, token_log_probs
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from proma_bench import Proma
from proma_bench.backward.cost import cheaper_gram_method, microbatches_per_pass
from proma_bench.backward.measure import Workspace


class CountProducts(TorchDispatchMode):
    """Counts matrix products by the number of elements of their result."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__.rstrip("_") in {"mm", "addmm", "bmm", "baddbmm"}:
            self.sizes.append(result.numel())
        return result


def test_autograd_computes_no_weight_gradient() -> None:
    module = initialise(Classifier(), torch.float32)
    rows = torch.randn(8, 6)

    def products(backward: Callable[[Tensor], None]) -> list[int]:
        log_probs = token_log_probs(module(rows), torch.zeros(8, dtype=torch.long))
        with CountProducts() as counter:
            backward(log_probs)
        return sorted(size for size in counter.sizes if size > 24)  # those of the biases are B products with vectors

    plain = products(lambda log_probs: log_probs.sum().backward())
    with Proma(module) as proma:
        proma.backward(token_log_probs(module(rows), torch.zeros(8, dtype=torch.long)), torch.ones(8))  # is verified
        module.zero_grad()
        assert products(lambda log_probs: proma.backward(log_probs, torch.ones(8))) == plain


def test_activations_are_kept_not_copied() -> None:
    layer = nn.Linear(6, 5)
    rows = torch.randn(8, 6, requires_grad=True)
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with Proma(layer), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer(rows)
    assert rows.data_ptr() in kept and output.data_ptr() not in kept
    assert len(kept) == 2  # the input for the weight's gradient and the weight for the input's


def test_gradients_are_released_layer_by_layer() -> None:
    """A layer's gradient is made before the layers below run: nothing is held until the end of the pass."""
    module = nn.Sequential(*[nn.Linear(3, 3) for _ in range(4)])
    order: list[str] = []
    for number, layer in enumerate(module):
        layer.weight.register_post_accumulate_grad_hook(lambda _, n=number: order.append(f"weight {n}"))
        layer.register_full_backward_pre_hook(lambda *_, n=number: order.append(f"output {n}"))
    with Proma(module) as proma:
        for _ in range(2):  # the first is verified, by passes in which no gradient is made
            order.clear()
            module.zero_grad()
            proma.backward(module(torch.randn(2, 3, requires_grad=True)).sum(1), torch.ones(2))
    assert order == [f"{what} {n}" for n in (3, 2, 1, 0) for what in ("output", "weight")]


def test_sequence_gradients_that_are_written_out_stay_within_the_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for two of the four weights, which is then used again."""
    module, limit = nn.Sequential(*[nn.Linear(8, 8) for _ in range(4)]).double(), 5500
    rows, ones = torch.randn(4, 8, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    reached: list[int] = []
    view = Workspace.view

    def noting(self: Workspace, elements: int, like: Tensor) -> Tensor:
        reached.append((self.used + elements) * like.element_size())
        return view(self, elements, like)

    monkeypatch.setattr(Workspace, "view", noting)
    with Proma(module, workspace_bytes=limit, gram_method="rows") as proma:
        for _ in range(3):
            proma.backward(module(rows).sum(1), ones)
    assert limit / 2 < max(reached) <= limit
    assert len(reached) == 2 * 4  # in one piece each; the first microbatch writes none


# ------------------------------------------------------------------------------------------------ what is chosen


@pytest.mark.parametrize(
    ("sequences", "rows", "width", "cheaper"),
    [
        (256, 256, 32, "tokens"),  # so many sequences that the product of written rows is what costs
        (32, 2048, 64, "rows"),  # so many rows that their pairs are
        (1, 64, 4096, "rows"),  # a weight so large that every product with it counts: one of S, two of its factors
    ],
)
def test_the_way_with_fewer_multiplications_is_chosen(sequences: int, rows: int, width: int, cheaper: str) -> None:
    assert cheaper_gram_method(sequences, rows, width, width) == cheaper


@pytest.mark.parametrize("microbatches", [1, 6, 8])
def test_a_small_model_takes_all_microbatches_in_one_pass(microbatches: int) -> None:
    shapes = [torch.Size(shape) for shape in ([5, 3], [5], [], [2, 3, 3, 3])]
    assert microbatches_per_pass(shapes, 2, 1.0, microbatches) == microbatches


def test_a_large_model_takes_one() -> None:
    assert microbatches_per_pass([torch.Size([4096, 4096])], 8, 1024.0, 16) == 1
    assert microbatches_per_pass([torch.Size([10**8])], 8, 1.0, 16) == 1


def test_passes_are_smaller_for_longer_sequences_larger_parameters_and_larger_microbatches() -> None:
    """Each of these makes the Gram matrix of all the sequences of a pass dearer, against one call for each tensor."""
    weight, gain = torch.Size([64, 64]), torch.Size([1000])
    short, long = (microbatches_per_pass([weight], 4, rows, 1024) for rows in (1.0, 100.0))
    few, many = (microbatches_per_pass([gain], size, 1.0, 1024) for size in (2, 16))
    alone, beside = (microbatches_per_pass(shapes, 4, 1.0, 1024) for shapes in ([gain], [gain, torch.Size([20_000])]))
    for larger, smaller in ((short, long), (few, many), (alone, beside)):
        assert 1024 > larger > smaller >= 1


def test_parameters_that_are_frozen_cost_nothing() -> None:
    module = nn.Sequential(nn.Linear(2000, 2000), nn.Linear(3, 2))
    with Proma(module) as proma:
        assert proma.microbatches_per_pass(8, 100.0, 16) == 1
        module[0].requires_grad_(False)
        assert proma.microbatches_per_pass(8, 100.0, 16) == 16
