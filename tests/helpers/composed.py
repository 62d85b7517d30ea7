"""Small networks made of sound and unsound parts, all of which take rows [..., 3] and return rows of the same shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from custom_layers import Scale as _Scale
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from trust import double

WIDTH = 3


class Scale(_Scale):
    """A layer without a rule of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.register_buffer("mean", torch.zeros(WIDTH))


class Moving(Scale):
    """One whose statistics move with every call."""

    def forward(self, rows: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.lerp_(rows.flatten(0, -2).mean(0), 0.3)
        return self.scaled(rows - self.mean)


class Moded(Scale):
    def forward(self, rows: Tensor) -> Tensor:
        return self.scaled(rows) if self.training else self.scaled(rows).square()


class Dropping(Scale):
    def forward(self, rows: Tensor) -> Tensor:
        return F.dropout(self.scaled(rows), 0.5, self.training)


class Composed(nn.Module):
    """Applies its parts in turn, each with a layer of its own if it needs one.

    Attributes:
        axis: along which sequences, or their rows, follow one another.
        size: of chunks; the number of sequences.
        others: leaves that are no parameters of the module.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        super().__init__()
        self.parts = list(parts)
        self.layers = nn.ModuleList(LAYERS.get(part, nn.Identity)() for part in parts)
        self.first, self.gain = nn.Linear(WIDTH, WIDTH), None
        for part, layer in zip(parts, self.layers, strict=True):
            if part == "tied":
                layer.weight = self.first.weight
        if "own parameter" in parts:
            self.gain = nn.Parameter(torch.ones(WIDTH))
        double(self)
        self.others = [torch.full((WIDTH,), 0.7, dtype=torch.float64).requires_grad_() for _ in range(2)]
        self.others[0] = nn.Parameter(self.others[0].detach())
        self.axis, self.size, self.plain = 0, 1, False

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.first(rows)
        for part, layer in zip(self.parts, self.layers, strict=True):
            hidden = PARTS[part](self, layer, hidden, rows)
            hidden = torch.sin(hidden)
        return hidden


Part = Callable[[Composed, Any, Tensor, Tensor], Tensor]


def _call(model: Composed, layer: Any, hidden: Tensor, rows: Tensor) -> Tensor:
    return layer(hidden)


def _checkpointed(reentrant: bool) -> Part:
    def part(model: Composed, layer: Any, hidden: Tensor, rows: Tensor) -> Tensor:
        if model.plain or not hidden.requires_grad:
            return layer(hidden)
        return checkpoint(layer, hidden, use_reentrant=reentrant)

    return part


def _sorted_within(model: Composed, layer: Any, hidden: Tensor, rows: Tensor) -> Tensor:
    """Sorts for the layer, and back again."""
    keys = rows.movedim(model.axis, 0).flatten(1)[:, 0]
    order = keys.argsort()
    return layer(hidden.index_select(model.axis, order)).index_select(model.axis, order.argsort())


def _sorted(model: Composed, layer: Any, hidden: Tensor, rows: Tensor) -> Tensor:
    return hidden.index_select(model.axis, rows.movedim(model.axis, 0).flatten(1)[:, 0].argsort())


def _in_chunks(model: Composed, layer: Any, hidden: Tensor, rows: Tensor) -> Tensor:
    chunks = hidden.flatten(0, -2).split(model.size)
    return torch.cat([layer(chunk) for chunk in chunks]).view_as(hidden)


def _time_first(model: Composed, layer: Any, hidden: Tensor, rows: Tensor) -> Tensor:
    return layer(hidden.transpose(0, 1)).transpose(0, 1) if hidden.ndim == 3 else layer(hidden)


def _tokens(model: Composed, layer: Any, hidden: Tensor, rows: Tensor) -> Tensor:
    return hidden + layer((rows[..., 0].abs() * 3).long().clamp(max=4))


def _positions(model: Composed, layer: Any, hidden: Tensor, rows: Tensor) -> Tensor:
    return hidden + layer(torch.arange(hidden.shape[-2]) % 5)


def _normalised(model: Composed, layer: Any, hidden: Tensor, rows: Tensor) -> Tensor:
    return layer(hidden.flatten(0, -2)).view_as(hidden) if hidden.numel() > WIDTH else hidden


SOUND: dict[str, Part] = {
    "linear": _call,
    "scale": _call,
    "norm": _call,
    "embedding": _tokens,
    "tied": _call,
    "shared": lambda model, _, hidden, __: model.first(hidden),
    "checkpointed": _checkpointed(False),
    "repeated": lambda _, layer, hidden, __: layer(layer(hidden).tanh()),
    "residual": lambda _, layer, hidden, __: hidden + layer(hidden),
}
UNSOUND: dict[str, Part] = {  # or doubtful: to refuse it is no mistake
    "statistics": lambda _, __, hidden, ___: hidden / (1 + hidden.detach().abs().mean()),
    "reentrant": _checkpointed(True),
    "sorted within": _sorted_within,
    "sorted": _sorted,
    "rolled": lambda model, _, hidden, __: hidden.roll(1, model.axis),
    "chunks": _in_chunks,
    "time first": _time_first,
    "positions": _positions,
    "batch norm": _normalised,
    "centred": lambda model, _, hidden, __: hidden - hidden.mean(model.axis, keepdim=True),
    "cumulated": lambda model, _, hidden, __: hidden.cumsum(model.axis),
    "foreign parameter": lambda model, _, hidden, __: hidden * model.others[0],
    "foreign tensor": lambda model, _, hidden, __: hidden + model.others[1],
    "own parameter": lambda model, _, hidden, __: hidden * model.gain,
    "direct": lambda model, _, hidden, __: F.linear(hidden, model.first.weight),
    "direct and called": lambda _, layer, hidden, __: layer(hidden) + F.linear(hidden, layer.weight),
    "moving": _call,
    "moded": _call,
    "dropping": _call,
    "detached": lambda _, layer, hidden, __: hidden.detach() + layer(hidden),
    "without grad": lambda _, layer, hidden, __: hidden + layer(hidden).detach(),
}
PARTS = SOUND | UNSOUND
_LINEAR = ("linear", "tied", "checkpointed", "repeated", "residual", "reentrant", "sorted within", "chunks")
_LINEAR += ("time first", "direct and called", "detached", "without grad")
LAYERS: dict[str, Callable[[], nn.Module]] = dict.fromkeys(_LINEAR, lambda: nn.Linear(WIDTH, WIDTH)) | {
    "scale": Scale,
    "norm": lambda: nn.LayerNorm(WIDTH),
    "embedding": lambda: nn.Embedding(5, WIDTH),
    "positions": lambda: nn.Embedding(5, WIDTH),
    "batch norm": lambda: nn.BatchNorm1d(WIDTH, affine=False),
    "moving": Moving,
    "moded": Moded,
    "dropping": Dropping,
}


# ---------------------------------------------------------------------------------------- what happens meanwhile


def _swap(model: Composed) -> None:
    model.first = double(nn.Linear(WIDTH, WIDTH), 5)


def _replace_forward(model: Composed) -> None:
    layer = model.first
    layer.forward = lambda rows: 2 * nn.Linear.forward(layer, rows)


def _replace_parameter(model: Composed) -> None:
    model.first.weight = nn.Parameter(model.first.weight.detach() * 0.5)


def _set_temperature(model: Composed) -> None:
    for layer in model.modules():
        if isinstance(layer, Scale):
            layer.temperature *= 1.5


def _another_pass(model: Composed) -> None:
    model(torch.ones(model.size, 2, WIDTH, dtype=torch.float64))


def _in_a_thread(model: Composed) -> None:
    """Another pass; a refusal there ends the use."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(_another_pass, model).result()


SOUND_EVENTS: dict[str, Callable[[Composed], object]] = {
    "nothing": lambda model: None,
    "eval": Composed.eval,
    "train": Composed.train,
    "zero_grad": Composed.zero_grad,
}
EVENTS: dict[str, Callable[[Composed], object]] = SOUND_EVENTS | {
    "freeze": lambda model: model.first.requires_grad_(False),
    "freeze weight": lambda model: model.first.weight.requires_grad_(False),
    "unfreeze": lambda model: model.requires_grad_(True),
    "swap": _swap,
    "replace forward": _replace_forward,
    "replace parameter": _replace_parameter,
    "temperature": _set_temperature,
}
BETWEEN: dict[str, Callable[[Composed], object]] = {
    "nothing": lambda model: None,
    "switch": lambda model: model.train(not model.training),
    "temperature": _set_temperature,
    "another pass": _another_pass,
    "pass without grad": torch.no_grad()(_another_pass),
    "pass in a thread": _in_a_thread,
}


@contextmanager
def failing(model: Composed) -> Iterator[None]:
    """The gradient that reaches the first layer raises an error."""

    def fail(_: Tensor) -> None:
        raise ArithmeticError("half-way")

    def hook(_: nn.Module, __: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(fail)

    handle = model.first.register_forward_hook(hook)
    yield
    handle.remove()
