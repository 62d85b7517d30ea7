"""What is known of a backward pass of a microbatch before it starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from proma_bench.backward.compiled import is_compiled
from proma_bench.backward.direct import DirectUses
from proma_bench.backward.graph import Node, Survey
from proma_bench.backward.layout import Layout
from proma_bench.backward.rows import RowKind, layout_of
from proma_bench.backward.taps import Layer
from proma_bench.backward.verification import Form, Place, form_of


class Request(NamedTuple):
    """What ``torch.autograd.backward``, the first of these, was asked for."""

    backward: Callable[..., None]
    roots: Sequence[Tensor]
    seeds: Any
    found: Survey


class Verified(NamedTuple):
    """Where the rows of a structure are; ``is_simple`` where the layout says it for all of them."""

    kinds: dict[Form, RowKind]
    is_simple: bool
    has_second: bool
    can_move: bool


_ONCE_ONLY = (
    "log_probs has a graph that can be differentiated once only, as after another backward pass, or with a selective "
    "checkpoint, and the check of rows takes more passes; compute log_probs again without such a checkpoint, or attach "
    "with check=False"
)
NOTHING_VERIFIED = Verified({}, False, False, True)


@dataclass
class Plan:
    """One backward pass of a microbatch.

    Attributes:
        layout: which row belongs to which sequence, as the caller says.
        calls: the uses of layers that it will meet, by identity.
        is_opaque: whether there may be others, inside of reentrant checkpoints.
        direct: the parameters that are used without a layer, and what to do with them.
        leaves: tensors that require a gradient and are no parameters.
        verified: where the rows are.
        layouts: the layouts in this pass, where it was verified itself.
        by_autograd: sequence gradients [B, *W] that were computed by one pass for each sequence.
        arriving: parameters whose gradient is known only when everything has arrived at them.
        uses: how often each layer has received a gradient.
    """

    layout: Layout
    calls: set[int]
    is_opaque: bool
    direct: DirectUses | None
    leaves: list[Node]
    verified: Verified = NOTHING_VERIFIED
    layouts: dict[Place, Layout] = field(default_factory=dict)
    by_autograd: dict[Tensor, Tensor] = field(default_factory=dict)
    arriving: frozenset[Tensor] = frozenset()
    uses: Counter[object] = field(default_factory=Counter)

    @property
    def repeats_compiled(self) -> bool:
        """Whether a compiled region is called once for each sequence: it frees what it has saved at its first call."""
        return self.direct is not None and any(map(is_compiled, (*self.direct.cut, *self.direct.below)))

    def layout_of_call(self, layer: Layer, shape: torch.Size) -> Layout:
        """The layout of the output of a layer's next use."""
        if self.verified.is_simple and not self.layouts:
            return self.layout
        place = (layer, self.uses[layer])
        self.uses[layer] += 1
        found = self.layout_at(place, layer, shape)
        if found is None:
            raise ValueError(f"{layer.title} gave an output of {self.layout.mismatch(shape) or 'unknown rows'}")
        return found

    def layout_of_operation(self, node: Node, number: int, shape: torch.Size) -> Layout:
        """The layout of what arrives at an operation, from its output of some number."""
        found = self.layout_at((node, number), type(node).__name__, shape)
        if found is None:
            raise ValueError(f"rows of an operation ({type(node).__name__}) of shape {list(shape)} are not as before")
        return found

    def layout_at(self, place: Place, owner: object, shape: torch.Size) -> Layout | None:
        """The layout of something with rows; None where it has none."""
        if self.layout.sequences == 1:
            return Layout(1)
        if place in self.layouts:
            return self.layouts[place]
        kind = self.verified.kinds.get(form_of(owner, shape, self.layout.sequences), "rows")
        return layout_of("rows" if kind == "unknown" else kind, shape, self.layout)

    def knows_rows(self, node: Node, shapes: Sequence[torch.Size]) -> bool:
        """Whether rows were found at an operation of this form. An output that has received no gradient has none."""
        forms = (form_of(type(node).__name__, shape, self.layout.sequences) for shape in shapes)
        kinds = {self.verified.kinds[form] for form in forms if form in self.verified.kinds}
        return len(kinds) > 0 and kinds.isdisjoint(("mixed", "moving"))


def without_accumulation(plan: Plan, request: Request, seeds: Any) -> Sequence[Tensor | None]:
    """A backward pass up to the gates and parameters. Returns the gradients of leaves that are no parameters.

    Raises:
        ValueError: the graph does not allow that.
    """
    leaves = [leaf.variable for leaf in plan.leaves]
    if plan.is_opaque:
        return _whole_pass(request, seeds, leaves)
    gates = [GradientEdge(gate, 0) for gate in request.found.gates]
    inputs: Any = [*leaves, *gates, *plan.arriving]
    try:
        found = torch.autograd.grad(request.roots, inputs, seeds, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if str(error).startswith("Trying to backward"):
            raise ValueError(_ONCE_ONLY) from error
        raise
    gradients: Sequence[Tensor | None] = found[: len(leaves)]
    return gradients


def _whole_pass(request: Request, seeds: Any, leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """A pass over a graph that cannot be seen in advance, as a reentrant checkpoint allows no other."""
    kept = [leaf.grad for leaf in leaves]
    try:
        for leaf in leaves:
            leaf.grad = None
        request.backward(list(request.roots), grad_tensors=seeds, retain_graph=True)
        return [leaf.grad for leaf in leaves]
    finally:
        for leaf, gradient in zip(leaves, kept, strict=True):
            leaf.grad = gradient
