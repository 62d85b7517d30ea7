"""Small networks as people write them: what goes in and out, what is shared, unused, drawn at random or kept aside.

Each takes rows [B, T, 6] and returns [B, ...]; a sequence is one entry of the first axis. Those with recurrence,
attention and convolution are in `architectures_sequences`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Hidden(NamedTuple):
    """What layers hand to one another, in a structure with names."""

    rows: Tensor
    side: dict[str, Tensor]


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.out(self.left(rows) * torch.sigmoid(self.right(rows.flip(1))))


class Dictionaries(nn.Module):
    """A block that takes and returns a dictionary, and adds to what it was given."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, state: dict[str, Any]) -> dict[str, Any]:
            state["hidden"] = state["hidden"] + self.layer(state["hidden"]).tanh()
            state["norms"].append(state["hidden"].square().mean(-1))
            return state

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.out = nn.ModuleList([self.Block(), self.Block()]), nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor:
        state: dict[str, Any] = {"hidden": rows, "norms": []}
        for block in self.blocks:
            state = block(state)
        return self.out(state["hidden"]) + torch.stack(state["norms"]).sum(0).unsqueeze(-1)


class Nested(nn.Module):
    """Tuples in tuples of named tuples."""

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, rows: Tensor, *, scale: float = 1.0) -> tuple[Hidden, tuple[Tensor, None]]:
            return Hidden(self.a(rows) * scale, {"b": self.b(rows)}), (rows, None)

    def __init__(self) -> None:
        super().__init__()
        self.split, self.out = self.Split(), nn.Linear(4, 3)

    def forward(self, rows: Tensor) -> Tensor:
        (hidden, side), (_, _) = self.split(rows, scale=0.5)
        return self.out(hidden.tanh() * side["b"])


class TupleLayer(nn.Module):
    """A layer with a parameter of its own that returns two tensors, one of which is dropped."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))

        def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
            return rows * self.weight, rows + self.weight

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = self.Layer(), nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor:
        first, _ = self.layer(rows)
        return self.out(first)


class UnusedParts(nn.Module):
    """A layer that is never called, one whose output is dropped, one that only decides."""

    def __init__(self) -> None:
        super().__init__()
        self.never, self.dropped, self.gate = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(6, 1)
        self.out, self.spare = nn.Linear(6, 3), nn.Parameter(torch.ones(3))

    def forward(self, rows: Tensor) -> Tensor:
        self.dropped(rows)
        return self.out(torch.where(self.gate(rows) > 0, rows, -rows))


class SideEffects(nn.Module):
    """Notes what it has seen, within the graph, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out, self.seen = nn.Linear(6, 6), nn.Linear(6, 3), {}
        self.register_buffer("count", torch.zeros(()))

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.layer(rows)
        self.seen = {"hidden": hidden.detach()}
        self.count += 1
        return self.out(hidden.tanh()) * (1 + 1 / self.count.item())


class OwnParameters(nn.Module):
    """Parameters beside modules: a scale, a shift and a learned start."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.start = nn.Linear(6, 6), nn.Parameter(torch.zeros(1, 1, 6))
        self.scale, self.shift = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(()))

    def forward(self, rows: Tensor) -> Tensor:
        rows = torch.cat([self.start.expand(len(rows), -1, -1), rows], dim=1)
        return self.layer(rows).tanh() * self.scale + self.shift


class ParameterLists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(6, 6)) for _ in range(2)])
        self.biases = nn.ParameterDict({"first": nn.Parameter(torch.ones(6)), "second": nn.Parameter(torch.ones(6))})

    def forward(self, rows: Tensor) -> Tensor:
        for weight, bias in zip(self.weights, self.biases.values(), strict=True):
            rows = torch.tanh(rows @ weight + bias)
        return rows


class Einsum(nn.Module):
    """Attention heads from one raw tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.out = nn.Parameter(torch.ones(2, 6, 3)), nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.out(torch.einsum("btd,hde->bthe", rows, self.kernel).flatten(2).tanh())


class WeightsOfSubmodules(nn.Module):
    """A decoder with the encoder's weight, transposed and not called."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.bias = nn.Linear(6, 4), nn.Parameter(torch.zeros(6))

    def forward(self, rows: Tensor) -> Tensor:
        return F.linear(self.encode(rows).tanh(), self.encode.weight.T, self.bias)


class Standardised(nn.Module):
    """A weight that is standardised on the fly."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor:
        weight = self.layer.weight
        weight = (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True)
        return self.out(F.linear(rows, weight, self.layer.bias).tanh())


class Generated(nn.Module):
    """A network that makes the weights of another, for each sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.out = nn.Linear(6, 24), nn.Linear(4, 3)

    def forward(self, rows: Tensor) -> Tensor:
        weights = self.make(rows.mean(1)).view(-1, 6, 4)
        return self.out(torch.bmm(rows, weights).tanh())


class Routed(nn.Module):
    """A mixture of experts: the two best for each token, gathered, and added back by index."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, rows: Tensor) -> Tensor:
        flat = rows.flatten(0, 1)
        weight, chosen = self.router(flat).softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            where, rank = (chosen == number).nonzero(as_tuple=True)
            if len(where):
                out = out.index_add(0, where, expert(flat[where]) * weight[where, rank].unsqueeze(1))
        return out.view_as(rows)


class RoutedDensely(nn.Module):
    """A mixture of experts that computes all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, rows: Tensor) -> Tensor:
        outputs = torch.stack([expert(rows) for expert in self.experts], dim=-1)
        return (outputs * self.router(rows).softmax(-1).unsqueeze(-2)).sum(-1)


class Repeated(nn.Module):
    """One block, three times, by a loop that the data ends."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor:
        for _ in range(2 + int(rows.abs().sum() > 0)):
            rows = rows + self.block(rows).relu()
        return self.out(rows)


class Pooled(nn.Module):
    """Layers above and below a mean over time, so that rows are tokens here and sequences there."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.above, self.norm = nn.Linear(6, 5), nn.Linear(5, 3), nn.LayerNorm(5)

    def forward(self, rows: Tensor) -> Tensor:
        return self.above(self.norm(self.below(rows).tanh().mean(1)))


class Unbatched(nn.Module):
    """A loop over sequences, one at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.stack([self.out(self.layer(row).tanh()) for row in rows])


class Samples(nn.Module):
    """Several samples for each sequence, repeated along the first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.encode(rows).tanh().repeat_interleave(2, dim=0)
        return self.decode(hidden + torch.randn_like(hidden)).view(len(rows), 2, -1)


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    kind.__name__: kind
    for kind in (
        TwoInputs, Dictionaries, Nested, TupleLayer, UnusedParts, SideEffects, OwnParameters, ParameterLists, Einsum,
        WeightsOfSubmodules, Standardised, Generated, Routed, RoutedDensely, Repeated, Pooled, Unbatched, Samples,
    )
} | {
    "dropout": lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 3)),
    "dropout twice": lambda: nn.Sequential(nn.Dropout(0.3), nn.Linear(6, 6), nn.Dropout1d(0.5), nn.Linear(6, 3)),
    "prelu": lambda: nn.Sequential(nn.Linear(6, 6), nn.PReLU(), nn.Linear(6, 3)),
    "in place": lambda: nn.Sequential(nn.Linear(6, 6), nn.ELU(inplace=True), nn.Linear(6, 6), nn.ReLU(inplace=True)),
    "norms": lambda: nn.Sequential(nn.LayerNorm((3, 6)), nn.Linear(6, 6), nn.RMSNorm(6), nn.Linear(6, 3)),
    "flattened": lambda: nn.Sequential(nn.Flatten(), nn.Linear(18, 6), nn.Tanh(), nn.Unflatten(1, (2, 3))),
    "batch norm": lambda: nn.Sequential(nn.Linear(6, 6), nn.Flatten(), nn.BatchNorm1d(18), nn.Linear(18, 3)),
    "batch norm over time": lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(6, 3)),
}  # fmt: skip
