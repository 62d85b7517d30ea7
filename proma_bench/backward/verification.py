"""Backward passes that change nothing: where the rows of the sequences are, and whether the rules are right.

One for each vector of `rows.seed_weights`, and one with seeds of one, in which each rule is tried as well. They are run
once for each structure of a microbatch, and each time where rows move with the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from proma_bench.backward.direct import DirectUses, suspended_hooks
from proma_bench.backward.graph import Boundary, Node, output_shapes
from proma_bench.backward.layout import Layout
from proma_bench.backward.rows import RowKind, layout_of, moving_layout, owners, row_kind, sketch
from proma_bench.backward.taps import Call, Layer

Form = tuple[object, int, bool, bool]
"""What has rows (a layer, a kind of node, a leaf), how many axes, and if the first two are as long as the batch."""

Place = tuple[object, int]
"""A layer and the number of its use in a backward pass, or a node and the number of its output."""


def form_of(owner: object, shape: torch.Size, sequences: int) -> Form:
    """The form of something with rows."""
    axes = len(shape)
    return owner, axes, axes > 0 and shape[0] == sequences, axes > 1 and shape[1] == sequences


class Found(NamedTuple):
    """What the passes have shown.

    Attributes:
        kinds: where the rows of each form are.
        layouts: where they are in this pass, for each place.
        silent: the forms of places where too little has arrived to remember it.
    """

    kinds: dict[Form, RowKind]
    layouts: dict[Place, Layout]
    silent: set[Form]


class Verification:
    """Collects what arrives in passes that change nothing.

    Args:
        layout: which row belongs to which sequence.
        base: see `rows.seed_weights`.
        passes: how many there are, the one with seeds of one included.

    Attributes:
        problems: of layers whose rule is wrong, and why.
        is_last: whether this is the pass with seeds of one.
        is_nested: whether there were backward passes within these, whose graphs were not seen before.
    """

    def __init__(self, layout: Layout, base: int, passes: int) -> None:
        self._layout, self._base, self._passes = layout, base, passes
        self._sketches: dict[Place, list[Tensor]] = {}
        self._forms: dict[Place, Form] = {}
        self._shapes: dict[Place, torch.Size] = {}
        self._uses: Counter[object] = Counter()
        self._owners: dict[Place, Tensor | None] = {}
        self._kinds: dict[Place, RowKind] = {}
        self.problems: dict[Layer, str] = {}
        self.is_last = False
        self.is_nested = False

    def start_pass(self, *, is_last: bool) -> None:
        """Another pass begins."""
        self._uses.clear()
        self.is_last = is_last

    def call(self, call: Call, gradient: Tensor) -> Layout | None:
        """A layer has received its output gradient. Returns its layout in the last pass, None for mixed rows."""
        place = (call.layer, self._uses[call.layer])
        self._uses[call.layer] += 1
        return self.arrived(place, call.layer, gradient)

    def arrived(self, place: Place, owner: object, gradient: Tensor) -> Layout | None:
        """A gradient has arrived, of something whose form has this owner."""
        seen = self._sketches.setdefault(place, [])
        seen.append(sketch(gradient.detach(), self._layout.row_axes))
        if not self.is_last:
            return None
        sequences, shape = self._layout.sequences, gradient.shape
        self._forms[place], self._shapes[place] = form_of(owner, shape, sequences), shape
        complete = len(seen) == self._passes
        self._owners[place] = owners(seen[-1], seen[:-1], sequences, self._base) if complete else None
        self._kinds[place] = row_kind(self._owners[place], shape, self._layout)
        return self._layout_at(place)

    def _layout_at(self, place: Place) -> Layout | None:
        found, shape, kind = self._owners[place], self._shapes[place], self._kinds[place]
        if kind == "moving" and found is not None:
            return moving_layout(found, self._layout.sequences)
        if kind == "unknown":
            if found is None or found.numel() == 0:
                return Layout(1)  # there is no row
            if not bool((found < 0).all()):
                return moving_layout(found, self._layout.sequences)
            # no row has a gradient: any layout will do
            return layout_of("rows", shape, self._layout) or moving_layout(found, self._layout.sequences)
        return layout_of(kind, shape, self._layout)

    def operation(self, node: Node, arriving: Sequence[Tensor | None]) -> None:
        """An operation with a parameter that is used directly has received its gradients."""
        for number, gradient in enumerate(arriving):
            if gradient is not None:
                self.arrived((node, number), type(node).__name__, gradient)

    def found(self) -> Found:
        """What all of the passes have shown."""
        kinds: dict[Form, RowKind] = {}
        for place, kind in self._kinds.items():
            form = self._forms[place]
            before = kinds.get(form, "unknown")
            if kind == "mixed" or before == "mixed":
                kinds[form] = "mixed"
            elif kind == "unknown" or before in ("unknown", kind):
                kinds[form] = before if kind == "unknown" else kind
            else:
                kinds[form] = "moving"  # two uses of one form differ
        layouts = {place: self._layout_at(place) for place, kind in self._kinds.items() if kind != "mixed"}
        known = {place: layout for place, layout in layouts.items() if layout is not None}
        silent = {self._forms[place] for place, kind in self._kinds.items() if kind == "unknown"}
        return Found(kinds, known, silent)

    def has_rows(self, node: Node) -> bool:
        """Whether each row that arrives at an operation belongs to one sequence."""
        return all(self._kinds.get((node, number)) != "mixed" for number in range(len(output_shapes(node))))


@contextmanager
def weighted(edges: Iterable[Boundary], layout: Layout, weights: Tensor) -> Iterator[None]:
    """In this context each sequence's log-prob has a weight in the loss."""
    by_node: dict[Node, list[Boundary]] = {}
    for edge in edges:
        by_node.setdefault(edge.node, []).append(edge)
    handles = [node.register_hook(partial(_scale, own, layout, weights)) for node, own in by_node.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _scale(
    edges: list[Boundary], layout: Layout, weights: Tensor, gradients: tuple[Tensor | None, ...], _: Any
) -> tuple[Tensor | None, ...]:
    scaled = list(gradients)
    for edge in edges:
        gradient = scaled[edge.number]
        if gradient is not None:
            gradient = gradient.expand(edge.shape)
            scaled[edge.number] = gradient * _weights_of(edge.shape, layout, weights, gradient)
    return tuple(scaled)


def _weights_of(shape: torch.Size, layout: Layout, weights: Tensor, like: Tensor) -> Tensor:
    if shape == (layout.sequences,):
        return weights.to(like.device, like.dtype)
    return layout.weights(weights, like)


@contextmanager
def observed(uses: DirectUses | None, verification: Verification) -> Iterator[None]:
    """In this context operations with parameters that are used directly are observed."""
    operations = () if uses is None else uses.operations
    handles = [node.register_prehook(partial(verification.operation, node)) for node in operations]
    leaves = [] if uses is None else [leaf.variable for leaf in uses.leaves]
    try:
        with suspended_hooks(leaves):
            yield
    finally:
        for handle in handles:
            handle.remove()


def weighted_seeds(roots: Sequence[Tensor], seeds: Any, layout: Layout, vector: Tensor | None) -> Any:
    """The seeds of the roots; of those that are no sums, with the weights of the sequences."""
    given = [None] * len(roots) if seeds is None else list(seeds)
    if vector is None or layout.sequences == 1:
        return given
    return [
        seed if root.numel() == 1 or seed is None else seed * layout.weights(vector, root)
        for root, seed in zip(roots, given, strict=True)
    ]
