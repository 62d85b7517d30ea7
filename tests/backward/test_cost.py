"""What the engine computes and keeps, counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from backward_policies import Classifier, initialise, token_log_probs
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from proma_bench import Proma


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
