"""The graph that is about to be differentiated: what a backward pass from these tensors will reach.

It is read anew for each pass, so that nothing has to be assumed about what a module does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction

from proma_bench.backward.compiled import COMPILED
from proma_bench.backward.layout import Layout
from proma_bench.backward.taps import GATE_NODE, TAP_NODE, Call

Node = Any  # torch.autograd.graph.Node; its subclasses' attributes are not typed

ACCUMULATE_NODE: Any = type(torch.zeros(1, requires_grad=True).view(1).grad_fn.next_functions[0][0])  # type: ignore[union-attr]
_CHECKPOINT_NODE: Any = CheckpointFunction._backward_cls

_MOVING = frozenset(
    f"{name}Backward0"
    for name in (
        *("Index", "UnsafeIndex", "IndexSelect", "IndexPut", "IndexPutImpl", "IndexAdd", "IndexCopy", "IndexFill"),
        *("Gather", "Scatter", "ScatterAdd", "ScatterReduce", "MaskedSelect", "MaskedScatter", "Take", "Put", "Sort"),
        *("Embedding", "EmbeddingBag", "GroupedMm", "Topk", "Select", "Kthvalue", "PackPaddedSequence"),
    )
) | {COMPILED}  # what may put rows into an order that depends on data


_VIEWING = frozenset(f"{name}Backward0" for name in ("View", "UnsafeView", "ReshapeAlias"))
_JOINING = frozenset(
    f"{name}Backward0" for name in ("Slice", "Select", "Split", "SplitWithSizes", "Unbind", "Cat", "Stack")
)

_SETTINGS = tuple(
    f"_saved_{name}"
    for name in (
        *("dim", "dims", "dim0", "dim1", "dim2", "dimension", "shifts", "training"),
        *("kernel_size", "stride", "padding", "dilation", "group", "groups"),
    )
)  # 0 or 1, say: across a batch or within


_PARTS = ("start", "end", "step", "index", "split_size", "split_sizes")


class Survey(NamedTuple):
    """What a backward pass will reach.

    Attributes:
        calls: of tapped layers, of whatever engine.
        gates: the nodes of parameters that tapped layers have used.
        leaves: what receives a gradient without a gate, as AccumulateGrad nodes.
        is_opaque: whether a reentrant checkpoint hides a part of the graph.
        kinds: the types of all nodes, with those of their settings that say which axis is meant.
        moving: nodes that may put rows into another order.
        viewed: the shapes of what is seen in another shape, or pooled, by which rows may be cut or joined.
        joints: nodes that cut an axis, or join parts of one, in the order of the walk.
    """

    calls: list[Call]
    gates: list[Node]
    leaves: list[Node]
    is_opaque: bool
    kinds: frozenset[Any]
    moving: list[Node]
    viewed: frozenset[tuple[int, ...]]
    joints: list[Node]

    @property
    def sparse(self) -> list[Node]:
        """The operations that give a sparse gradient."""
        return [node for node in self.moving if getattr(node, "_saved_sparse", False)]

    @property
    def parameters(self) -> set[Tensor]:
        """All that will receive a gradient."""
        return {p for call in self.calls for p in call.parameters.values()} | {leaf.variable for leaf in self.leaves}


def survey(roots: Sequence[Tensor]) -> Survey:
    """Walk the graph of these tensors once."""
    calls: list[Call] = []
    gates: list[Node] = []
    leaves: list[Node] = []
    moving: list[Node] = []
    kinds: set[Any] = set()
    viewed: set[tuple[int, ...]] = set()
    joints: list[Node] = []
    is_opaque = False
    stack: list[Node] = [*dict.fromkeys(root.grad_fn for root in roots if root.grad_fn is not None)]
    leaves += [accumulator(root) for root in roots if root.grad_fn is None and root.requires_grad]
    seen = {None, *stack}
    while stack:
        node = stack.pop()
        kind: Any = type(node)
        if kind is ACCUMULATE_NODE:
            leaves.append(node)
            continue
        if kind is GATE_NODE:
            gates.append(node)
            continue
        if kind is TAP_NODE:
            calls.append(node.call)
        else:
            traits = _traits(kind)
            kinds.add((kind, *[_hashable(getattr(node, name)) for name in traits.settings]))
            is_opaque = is_opaque or kind is _CHECKPOINT_NODE
            if traits.moves:
                moving.append(node)
            if traits.joins:
                joints.append(node)
            if traits.views:
                viewed.add(node._saved_self_sym_sizes)
            elif traits.pools:
                viewed.add(output_shapes(node)[0])
        for parent, _ in node.next_functions:
            if parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return Survey(calls, gates, leaves, is_opaque, frozenset(kinds), moving, frozenset(viewed), joints)


class _Traits(NamedTuple):
    """What is asked of the nodes of one kind, see `Survey`."""

    settings: tuple[str, ...]
    moves: bool
    joins: bool
    views: bool
    pools: bool


@functools.lru_cache(maxsize=1024)
def _traits(kind: type) -> _Traits:
    name = kind.__name__
    settings = tuple(setting for setting in _SETTINGS if hasattr(kind, setting))
    return _Traits(settings, name in _MOVING, name in _JOINING, name in _VIEWING, "Pool" in name)


def _hashable(value: Any) -> object:
    return tuple(value) if isinstance(value, list) else value


def accumulator(leaf: Tensor) -> Node:
    """The node that adds to a leaf's ``grad``."""
    return leaf.view_as(leaf).grad_fn.next_functions[0][0]  # type: ignore[union-attr]


def output_shapes(node: Node) -> list[torch.Size]:
    """The shapes of what the node's operation returned, which are those of the gradients that it receives."""
    return [torch.Size(metadata.shape) for metadata in node._input_metadata]


def joint(node: Node, sequences: int) -> object:
    """Which parts of the sequences a node of `Survey.joints` takes or joins; None where it is another axis."""
    name = type(node).__name__
    axis = node._saved_dim
    if axis > 1 or sequences == 1:
        return None
    if name == "UnbindBackward0":
        size = len(node._input_metadata)
    else:
        shape = getattr(node, "_saved_self_sym_sizes", None) or output_shapes(node)[0]
        size = shape[axis] if axis < len(shape) else 0
    if size != sequences:
        return None
    parts = [_hashable(getattr(node, f"_saved_{part}", None)) for part in _PARTS]
    return name, axis, *parts, *[number for _, number in node.next_functions]


def moves_rows(node: Node, axes: int, layout: Layout) -> bool:
    """Whether a node of `Survey.moving` may reorder sequences.

    Taking the rows ``0, 1, 2, ...`` reorders nothing: ``log_probs[torch.arange(B), actions]`` is an idiom. Neither does
    adding up rows by their ``sequence_ids``, from which the layout was made.

    Args:
        node: the operation.
        axes: how many leading axes enumerate rows.
        layout: an axis as long as its sequences may be one of them, wherever it is.
    """
    name, sequences = type(node).__name__.removesuffix("Backward0"), layout.sequences
    if name == "IndexAdd":
        return not layout.is_made_of(node._saved_index)
    if name in ("Gather", "IndexSelect", "Select"):
        shape = getattr(node, "_saved_self_sym_sizes", None) or output_shapes(node)[0]
        axis = node._saved_dim - 2**64 if node._saved_dim >= 2**63 else node._saved_dim
        axis = axis + len(shape) if axis < 0 else axis
        return bool(axis < axes if name == "Gather" else shape[axis] == sequences or (axis < axes and name != "Select"))
    if name == "Index":
        return any(
            index is not None and (axis < axes or size == sequences) and not _counts_up(index)
            for axis, (index, size) in enumerate(zip(node._saved_indices, node._saved_self_sym_sizes, strict=False))
        )
    if name == "Embedding":  # of a table that is no activation
        return type(node.next_functions[0][0]) not in (ACCUMULATE_NODE, GATE_NODE)
    return True


def _counts_up(index: Tensor) -> bool:
    flat = index.flatten()
    return (
        index.dtype == torch.long
        and index.shape[0] == flat.shape[0]
        and bool(torch.equal(flat, torch.arange(flat.shape[0], device=flat.device)))
    )


class Boundary(NamedTuple):
    """Where a loss, a sum, takes its terms from: edge ``number`` of ``node`` leads to a tensor of this shape."""

    node: Node
    number: int
    shape: torch.Size


def boundary(roots: Sequence[Tensor], layout: Layout) -> list[Boundary]:
    """The edges over which the sum of the sequences' log-probs is differentiated to its terms.

    Terms that were selected or flattened, as by ``log_probs[mask]``, are followed to what they were selected from.

    Raises:
        ValueError: a parameter enters after the sum over sequences, or the terms are not those of sequences.
    """
    edges: list[Boundary] = []
    for root in roots:
        if root.numel() != 1 and layout.mismatch(root.shape) is not None:
            raise ValueError(_not_the_sequences(root.shape, layout))
    stack: list[Node] = [
        *dict.fromkeys(root.grad_fn for root in roots if root.grad_fn is not None and root.numel() == 1)
    ]
    seen = set(stack)
    while stack:
        node = stack.pop()
        for number, (parent, output) in enumerate(node.next_functions):
            if parent is None:
                continue
            shape = output_shapes(parent)[output]
            is_term = math.prod(shape) != 1
            if type(parent) in (ACCUMULATE_NODE, GATE_NODE) or (type(parent) is TAP_NODE and not is_term):
                raise ValueError(
                    "the loss is not minus the sum of the sequences' log-probs: a parameter enters after the sum over "
                    "the sequences, so that it has no gradient of its own for each of them"
                )
            if is_term and (shape == (layout.sequences,) or layout.mismatch(shape) is None):
                edges.append(Boundary(node, number, shape))
            elif is_term and sum(above is not None for above, _ in parent.next_functions) != 1:
                raise ValueError(_not_the_sequences(shape, layout))
            elif parent not in seen:
                seen.add(parent)
                stack.append(parent)
    if len(edges) == layout.sequences and len({edge.node for edge in edges}) > 1:
        raise ValueError(_not_the_sequences(edges[0].shape, layout))  # perhaps each is the sum of one sequence's tokens
    return edges


def _not_the_sequences(shape: torch.Size, layout: Layout) -> str:
    return (
        f"the loss adds up a tensor of shape {list(shape)}, whose rows are not the {layout.sequences} sequences of "
        "this microbatch; it must be minus the sum of their log-probs [B], or of those of their tokens in the layout "
        "of the activations"
    )
