"""Parameters that a module uses directly, outside of any layer with a rule: their sequence gradients from the graph.

    parameter --> (exp, transpose, ... of parameters alone) --> operation with data --> rows of the sequences

The gradient that arrives at the operation has rows, and each belongs to one sequence (`rows`). So the operation's own
backward function, given the rows of one sequence and zeros elsewhere, returns that sequence's part of the gradient. It
is called once per sequence, which costs ``B`` times that one operation, and nothing of the rest of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from proma_bench.backward.checks import tolerance_of
from proma_bench.backward.factors import compute_dtype
from proma_bench.backward.graph import ACCUMULATE_NODE, Node, output_shapes
from proma_bench.backward.layout import Layout
from proma_bench.backward.taps import GATE_NODE, TAP_NODE

_WITH_DATA = frozenset(
    f"{name}Backward0"
    for name in ("Embedding", "EmbeddingBag", "Index", "UnsafeIndex", "IndexSelect", "Gather", "Take")
)  # of a parameter and of indices, which are no part of the graph


Edge = tuple[Node, int]
"""A node, and the number of one of its inputs."""


class DirectUses:
    """The part of a graph that lies between parameters without a gate and the first operations with rows.

    Args:
        roots: what will be differentiated.
        leaves: the AccumulateGrad nodes of the parameters.

    Attributes:
        consumers: for a leaf, or a node that depends on nothing but such parameters: the edges that lead to it.
        cut: for each operation with rows, its inputs that lead to parameters, chosen by `choose`.
        below: the same for the nodes between such an operation and the parameters.
    """

    def __init__(self, roots: Sequence[Tensor], leaves: Sequence[Node]) -> None:
        self.leaves = list(leaves)
        self.consumers = _consumers(roots, self.leaves)
        self.cut: dict[Node, set[int]] = {}
        self.below: dict[Node, set[int]] = {}

    @property
    def operations(self) -> set[Node]:
        """All nodes at which the graph may be cut."""
        return {node for uses in self.consumers.values() for node, _ in uses if type(node) is not TAP_NODE}

    def choose(self, has_rows: Callable[[Node], bool], without: Sequence[Node] = ()) -> list[Node]:
        """Cut as near to the parameters as rows allow, but not for the leaves in ``without``.

        Returns the leaves that nothing separates from mixed rows.
        """
        self.cut, self.below = {}, {}
        return [leaf for leaf in self.leaves if leaf in without or not self._cut_above(leaf, has_rows)]

    def _cut_above(self, leaf: Node, has_rows: Callable[[Node], bool]) -> bool:
        cut: list[Edge] = []
        between: list[Edge] = []
        stack, seen = [leaf], {leaf}
        while stack:
            above = self.consumers[stack.pop()]
            if not above:
                return False  # as far as the loss itself
            for node, number in above:
                if type(node) is TAP_NODE:
                    return False  # the output of a layer with a rule, which is not to be called again
                if not _is_of_parameters_alone(node) and has_rows(node):
                    cut.append((node, number))
                elif node not in self.consumers:
                    return False
                else:
                    between.append((node, number))
                    if node not in seen:
                        seen.add(node)
                        stack.append(node)
        for node, number in cut:
            self.cut.setdefault(node, set()).add(number)
        for node, number in between:
            self.below.setdefault(node, set()).add(number)
        return True


def _consumers(roots: Sequence[Tensor], leaves: Sequence[Node]) -> dict[Node, list[tuple[Node, int]]]:
    """`DirectUses.consumers`, from the parameters upwards."""
    users: dict[Node, list[tuple[Node, int]]] = {}
    stack = [*dict.fromkeys(root.grad_fn for root in roots if root.grad_fn is not None)]
    seen = set(stack)
    while stack:
        node = stack.pop()
        for number, (parent, _) in enumerate(node.next_functions):
            if parent is not None and type(node) is not GATE_NODE:
                users.setdefault(parent, []).append((node, number))
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    found: dict[Node, list[tuple[Node, int]]] = {}
    waiting: dict[Node, int] = {}
    ready = list(leaves)
    while ready:
        below = ready.pop()
        found[below] = users.get(below, [])
        for node, _ in found[below]:
            if type(node) is TAP_NODE:
                continue
            if node not in waiting:
                waiting[node] = sum(parent is not None for parent, _ in node.next_functions)
            waiting[node] -= 1
            if waiting[node] == 0:
                ready.append(node)
    return found


def _is_of_parameters_alone(node: Node) -> bool:
    """Whether an operation certainly has no data among its arguments: then chance alone would give it rows."""
    edges = node.next_functions
    return len(edges) == 1 and edges[0][0] is not None and type(node).__name__ not in _WITH_DATA


def local_gradients(node: Node, arriving: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """What one node's backward function makes of these gradients, by the numbers of its edges.

    It is not yet summed over broadcast axes. A function of one's own returns a gradient for each of its arguments,
    tensors or not, and has edges for the tensors alone; autograd gives it zeros where no gradient has arrived.
    """
    is_custom = isinstance(node, torch.autograd.function.BackwardCFunction)
    custom: Any = node
    if not is_custom:
        found: Any = node(*arriving)
        return found if isinstance(found, tuple) else (found,)
    if getattr(node, "materialize_grads", True):
        arriving = [
            torch.zeros(metadata.shape, dtype=metadata.dtype, device=metadata.device) if gradient is None else gradient
            for gradient, metadata in zip(arriving, custom._input_metadata, strict=True)
        ]
    found = custom.apply(*arriving)
    wanted = zip(found if isinstance(found, tuple) else (found,), node.needs_input_grad, strict=False)
    of_edges = iter([gradient for gradient, is_wanted in wanted if is_wanted])
    return [None if parent is None else next(of_edges, None) for parent, _ in node.next_functions]


class DirectPass:
    """Collects the sequence gradients of parameters without a gate while a backward pass runs.

    Args:
        uses: the part of the graph.
        sequences: B.
        layout_of: the layout of the rows that arrive at a node's output of some number and shape.
        complete: called with a parameter, its sequence gradients [B, *W] and the gradient that has arrived, once
            nothing is missing: what it returns arrives instead.
    """

    def __init__(
        self,
        uses: DirectUses,
        sequences: int,
        layout_of: Callable[[Node, int, torch.Size], Layout],
        complete: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> None:
        self._uses, self._sequences, self._layout_of, self._complete = uses, sequences, layout_of, complete
        self._found: dict[tuple[Node, int], Tensor] = {}  # of a node's output of some number: [B, *shape]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The hooks are in place."""
        handles = [node.register_prehook(self._at_rows(node, edges)) for node, edges in self._uses.cut.items()]
        handles += [node.register_prehook(self._below(node, edges)) for node, edges in self._uses.below.items()]
        handles += [_first_hook(leaf.variable, self._arrival(leaf)) for leaf in self._uses.leaves]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _at_rows(self, node: Node, edges: set[int]) -> Callable[[tuple[Tensor | None, ...]], None]:
        """Before an operation with rows runs: once for each sequence, with its rows alone."""

        def before(arriving: tuple[Tensor | None, ...]) -> None:
            with torch.no_grad():
                layouts = [
                    None if g is None else self._layout_of(node, number, g.shape) for number, g in enumerate(arriving)
                ]
                for sequence in range(self._sequences):
                    own = [
                        None if g is None or layout is None else layout.only(g, sequence)
                        for g, layout in zip(arriving, layouts, strict=True)
                    ]
                    self._repeat(node, own, edges, sequence)

        return before

    def _below(self, node: Node, edges: set[int]) -> Callable[[tuple[Tensor | None, ...]], None]:
        """Before a node of parameters alone runs, all operations above it have: once for each sequence."""

        def before(_: tuple[Tensor | None, ...]) -> None:
            outputs = [self._found.pop((node, number), None) for number in range(len(node._input_metadata))]
            if all(found is None for found in outputs):
                return
            with torch.no_grad():
                for sequence in range(self._sequences):
                    own = [
                        None if found is None else found[sequence].to(metadata.dtype)
                        for found, metadata in zip(outputs, node._input_metadata, strict=True)
                    ]
                    self._repeat(node, own, edges, sequence)

        return before

    def _repeat(self, node: Node, arriving: Sequence[Tensor | None], edges: set[int], sequence: int) -> None:
        gradients = local_gradients(node, arriving)
        for number in edges:
            gradient, (below, output) = gradients[number], node.next_functions[number]
            if gradient is None:
                continue
            if type(below) is ACCUMULATE_NODE:
                shape, dtype = below.variable.shape, compute_dtype(below.variable)
            else:
                shape, dtype = output_shapes(below)[output], torch.promote_types(gradient.dtype, torch.float32)
            if (below, output) not in self._found:
                self._found[below, output] = torch.zeros(self._sequences, *shape, dtype=dtype, device=gradient.device)
            self._found[below, output][sequence] += gradient.sum_to_size(shape)

    def _arrival(self, leaf: Node) -> Callable[[Tensor], Tensor]:
        def arrived(gradient: Tensor) -> Tensor:
            parameter = leaf.variable
            found = self._found.pop((leaf, 0), None)
            if found is None:
                found = gradient.new_zeros(self._sequences, *parameter.shape, dtype=compute_dtype(parameter))
            return self._complete(parameter, found, gradient)

        return arrived


def _first_hook(tensor: Tensor, hook: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Register a hook that runs before those that are there already, so that they see what it returns."""
    handle: RemovableHandle = tensor.register_hook(hook)  # type: ignore[no-untyped-call]
    hooks: Any = tensor._backward_hooks
    others = [item for item in hooks.items() if item[0] != handle.id]
    own = hooks[handle.id]
    hooks.clear()  # autograd follows the order of insertion, whatever `move_to_end` does
    hooks[handle.id] = own
    hooks.update(others)
    return handle


def adds_up(seq_grads: Tensor, gradient: Tensor) -> bool:
    """Whether sequence gradients are parts of the gradient that has arrived: a hook in between may have changed it."""
    return bool((seq_grads.sum(0) - gradient).norm() <= tolerance_of(gradient) * seq_grads.norm())


@contextmanager
def suspended_hooks(tensors: Sequence[Tensor]) -> Iterator[None]:
    """The tensors' own hooks do not run: they are meant for the gradient of the loss, not for parts of it."""
    kept: list[tuple[Any, dict[Any, Any]]] = []
    for tensor in tensors:
        if tensor._backward_hooks:
            kept.append((tensor._backward_hooks, dict(tensor._backward_hooks)))
            tensor._backward_hooks.clear()
    try:
        yield
    finally:
        for hooks, content in kept:
            hooks.update(content)
