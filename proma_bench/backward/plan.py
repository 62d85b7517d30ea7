"""What is known of a backward pass of a microbatch before it starts, and what makes it so that it may start."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.utils.checkpoint import CheckpointError

from proma_bench.backward.direct import DirectUses, suspended_hooks
from proma_bench.backward.graph import Node, Survey, boundary, moves_rows, output_shapes
from proma_bench.backward.layout import Layout
from proma_bench.backward.parameters import Parameters, is_distributed
from proma_bench.backward.rows import RowKind, digits_base, layout_of, seed_weights
from proma_bench.backward.taps import Layer
from proma_bench.backward.verification import (
    Form,
    Place,
    Verification,
    check_boundary,
    form_of,
    observed,
    weighted,
)


@dataclass
class Plan:
    """One backward pass of a microbatch.

    Attributes:
        calls: the uses of layers that it will meet, by identity.
        is_opaque: whether there may be others, inside of reentrant checkpoints.
        kinds: where the rows are; nothing where that was not verified.
        layouts: the layouts in this pass, where it was verified itself.
        direct: the parameters that are used without a layer, and what to do with them.
        leaves: tensors that require a gradient and are no parameters.
        by_autograd: sequence gradients [B, *W] that were computed by one pass for each sequence.
        thread: that the pass was started by.
    """

    layout: Layout
    calls: set[int]
    is_opaque: bool
    direct: DirectUses | None
    leaves: list[Node]
    kinds: dict[Form, RowKind] = field(default_factory=dict)
    layouts: dict[Place, Layout] = field(default_factory=dict)
    by_autograd: dict[Tensor, Tensor] = field(default_factory=dict)
    thread: int = field(default_factory=threading.get_ident)
    uses: Counter[object] = field(default_factory=Counter)

    def arriving(self) -> set[Tensor]:
        """Parameters whose gradient is known only when everything has arrived at them."""
        return set() if self.direct is None else {leaf.variable for leaf in self.direct.leaves}

    def layout_of_call(self, layer: Layer, shape: torch.Size) -> Layout:
        """The layout of the output of a layer's next use."""
        place = (layer, self.uses[layer])
        self.uses[layer] += 1
        found = self.layout_at(place, layer, shape)
        if found is None:
            raise ValueError(f"{layer.title} gave an output of {self.layout.mismatch(shape) or 'unknown rows'}")
        return found

    def layout_at(self, place: Place, owner: object, shape: torch.Size) -> Layout | None:
        """The layout of something with rows; None where it has none."""
        if self.layout.sequences == 1:
            return Layout(1)
        if place in self.layouts:
            return self.layouts[place]
        kind = self.kinds.get(form_of(owner, shape, self.layout.sequences), "rows")
        return layout_of("rows" if kind == "unknown" else kind, shape, self.layout)


_MIXED = "a row of its output has a part in the log-probs of more than one sequence"


class Planner:
    """Makes the plans of one engine, and remembers what has been verified."""

    def __init__(self, engine: Any, parameters: Parameters) -> None:
        self._engine, self._parameters = engine, parameters
        self._verified: dict[object, dict[Form, RowKind]] = {}
        self.distrusted: set[Layer] = set()

    def plan(
        self, backward: Callable[..., None], roots: Sequence[Tensor], seeds: Any, found: Survey, layout: Layout
    ) -> Plan:
        """What this pass will do; nothing has changed when it raises.

        Raises:
            ValueError: it would give wrong gradients, or gradients to what is not the module's.
        """
        direct, leaves = self.sort_leaves(found)
        uses = DirectUses(roots, direct) if direct else None
        plan = Plan(layout, {id(call) for call in found.calls}, found.is_opaque, uses, leaves)
        self._refuse_impossible(found, direct, leaves)
        needs = [GradientEdge(gate, 0) for gate in found.gates], [leaf.variable for leaf in direct]
        if not self._engine.check or self._parameters.is_sharded or (found.is_opaque and is_distributed()):
            if uses is not None and uses.choose(lambda node: self._fits(node, layout)):
                raise ValueError(f"{self._names(direct)}: used directly, which needs the check of rows; leave it on")
            if any(layout_of("rows", leaf.variable.shape, layout) is None for leaf in leaves):
                raise ValueError(_no_parameter(leaves))
            return plan
        edges = boundary(roots) if layout.sequences > 1 else []
        check_boundary(edges, layout)
        self._verify(plan, backward, roots, seeds, found, needs, edges)
        return plan

    # ------------------------------------------------------------------------------------------- what is reached

    def sort_leaves(self, found: Survey, *, nested: bool = False) -> tuple[list[Node], list[Node]]:
        """The module's parameters without a gate, and leaves that are no parameters.

        Raises:
            ValueError: a parameter is somebody else's, or a layer has the Proma of another module.
        """
        for call in found.calls:
            if call.layer.engine is not self._engine:
                raise ValueError(
                    f"log_probs depends on {call.layer.title}, which has another Proma attached, or had; attach one "
                    "Proma to a module that holds all layers, and compute log_probs afterwards"
                )
        direct, leaves = [], []
        for leaf in found.leaves:
            if self._parameters.find(leaf.variable):
                direct.append(leaf)
            elif isinstance(leaf.variable, nn.Parameter):
                raise ValueError(
                    f"log_probs depends on a parameter of shape {list(leaf.variable.shape)} that is not part of the "
                    "module that this Proma is attached to; attach it, once all are there, to a module that holds all "
                    "of them"
                )
            else:
                leaves.append(leaf)
        if nested and direct:
            raise ValueError(
                f"{self._names(direct)}: used inside of a reentrant checkpoint without calling a layer that has a rule; "
                "use torch.utils.checkpoint with use_reentrant=False"
            )
        return direct, leaves

    def _refuse_impossible(self, found: Survey, direct: list[Node], leaves: list[Node]) -> None:
        for call in found.calls:
            if call.dtype.is_complex:
                raise ValueError(f"{call.layer.title} gave complex numbers; sequence gradients are for real ones")
            if not all(parameter.requires_grad for parameter in call.parameters.values()):
                raise ValueError(f"{call.layer.title}: a parameter was frozen after the forward pass; do it before")
        if direct and self._parameters.is_sharded:
            raise ValueError(f"{self._names(direct)}: used directly, which fully_shard does not allow; call a layer")
        if direct and found.is_opaque:
            raise ValueError(
                f"{self._names(direct)}: used without calling a layer that has a rule, beside a reentrant checkpoint; "
                "use torch.utils.checkpoint with use_reentrant=False"
            )

    def _names(self, leaves: Sequence[Node]) -> str:
        return "parameter " + ", ".join(repr(self._parameters.name(leaf.variable)) for leaf in leaves)

    def _fits(self, node: Node, layout: Layout) -> bool:
        return all(layout_of("rows", shape, layout) is not None for shape in output_shapes(node))

    # ------------------------------------------------------------------------------------------- verification

    def _verify(
        self,
        plan: Plan,
        backward: Callable[..., None],
        roots: Sequence[Tensor],
        seeds: Any,
        found: Survey,
        needs: tuple[list[GradientEdge], list[Tensor]],
        edges: list[Any],
    ) -> None:
        key = self._key(plan, found)
        kinds = self._verified.get(key)
        known = kinds is not None and not self._must_look(found, plan.layout, kinds)
        if known and kinds is not None:
            plan.kinds = kinds
            known = plan.direct is None or not plan.direct.choose(lambda node: _known_rows(node, plan))
        verification: Verification | None = None
        unreached: list[Node] = []
        if not known:
            try:
                verification = self._passes(plan, backward, roots, seeds, needs, edges, repeats=True)
            except CheckpointError:  # it recomputes what an operation has kept only once in a pass
                if plan.direct is None:
                    raise
                verification = self._passes(plan, backward, roots, seeds, needs, edges, repeats=False)
            result = verification.found()
            plan.kinds, plan.layouts = result.kinds, result.layouts
            unreached = plan.direct.choose(verification.has_rows) if plan.direct is not None else []
        mixed = self._mixed(plan, found, unreached, {} if verification is None else verification.problems)
        if mixed:
            self._by_autograd(plan, mixed, roots, seeds, edges)
        if verification is not None and result.is_conclusive and not unreached and not mixed:
            self._verified[key] = plan.kinds

    def _key(self, plan: Plan, found: Survey) -> object:
        forms = Counter(form_of(call.layer, call.shape, plan.layout.sequences) for call in found.calls)
        modes = tuple(module.training for module in self._engine.modules)
        names = frozenset(self._parameters.name(leaf) for leaf in plan.arriving())
        return found.kinds, frozenset(forms.items()), modes, plan.layout.key, names, len(plan.leaves)

    def _must_look(self, found: Survey, layout: Layout, kinds: dict[Form, RowKind]) -> bool:
        values = set(kinds.values())
        axes = 2 if "second" in values else layout.row_axes
        return "moving" in values or any(moves_rows(node, axes) for node in found.moving)

    def _passes(
        self,
        plan: Plan,
        backward: Callable[..., None],
        roots: Sequence[Tensor],
        seeds: Any,
        needs: tuple[list[GradientEdge], list[Tensor]],
        edges: list[Any],
        *,
        repeats: bool,
    ) -> Verification:
        """The passes that change nothing."""
        layout, gates = plan.layout, needs[0]
        halves = any(metadata.dtype == torch.float16 for gate in gates for metadata in gate.node._input_metadata)
        base = digits_base(torch.float16 if halves else torch.float32)
        vectors = seed_weights(layout.sequences, base)
        verification = Verification(layout, base, len(vectors) + 1, repeats=repeats)
        inputs = [*gates, *needs[1], *(leaf.variable for leaf in plan.leaves)]
        with self._engine.verifying(verification), observed(plan.direct, verification):
            for vector in (*vectors, None):
                verification.start_pass(is_last=vector is None)
                own = _weighted_seeds(roots, seeds, layout, vector)
                with nullcontext() if vector is None else weighted(edges, layout, vector):
                    if plan.is_opaque:
                        gradients = _whole_pass(backward, roots, own, plan.leaves)
                    else:
                        found = torch.autograd.grad(
                            roots,
                            inputs,
                            own,
                            retain_graph=True,
                            allow_unused=True,  # type: ignore[arg-type]
                        )
                        gradients = list(found[len(inputs) - len(plan.leaves) :])
                for leaf, gradient in zip(plan.leaves, gradients, strict=True):
                    if gradient is not None:
                        verification.arrived((leaf, 0), "leaf", gradient)
        return verification

    def _mixed(
        self, plan: Plan, found: Survey, unreached: Sequence[Node], problems: dict[Layer, str]
    ) -> dict[Tensor, str]:
        """The parameters for which no rows can be told apart, and why."""
        if any(form[0] == "leaf" and kind == "mixed" for form, kind in plan.kinds.items()):
            raise ValueError(_no_parameter(plan.leaves))
        self.distrusted = set(problems)
        reasons = {owner: _MIXED for (owner, *_), kind in plan.kinds.items() if kind == "mixed"}
        wrong = {owner: reason for owner, reason in reasons.items() if isinstance(owner, Layer)} | problems
        calls = {call.layer: call for call in found.calls}
        mixed: dict[Tensor, str] = {}
        for layer, reason in wrong.items():
            if layer not in calls:
                raise ValueError(f"{layer.title}: {reason}; inside of a checkpoint, use use_reentrant=False")
            mixed.update(dict.fromkeys(calls[layer].parameters.values(), f"{layer.title}: {reason}"))
        for leaf in unreached:
            mixed[leaf.variable] = f"{self._names([leaf])} is used directly: {_MIXED}"
        if not unreached and all(_may_be_direct(layer) for layer in wrong):
            for layer in wrong:  # from now on through the operations that use its parameters
                layer.is_direct = True
            return dict.fromkeys(mixed, "")
        return mixed

    # ------------------------------------------------------------------------------------------- by autograd

    def _by_autograd(
        self, plan: Plan, mixed: dict[Tensor, str], roots: Sequence[Tensor], seeds: Any, edges: list[Any]
    ) -> None:
        """One backward pass for each sequence, for the parameters that no rule serves."""
        sequences, reasons = plan.layout.sequences, "; ".join(dict.fromkeys(mixed.values()))
        if reasons and self._engine.uncovered != "autograd":
            raise ValueError(
                f"{reasons} (its module, or one above it, mixes the rows of a batch, as BatchNorm does in training mode, "
                "or its first axis is not the sequence); pass sequence_ids, or attach with Proma(model, "
                f"uncovered='autograd'), which takes {sequences} more backward passes for these parameters"
            )
        if plan.is_opaque:
            raise ValueError(
                f"{', '.join(map(self._parameters.name, mixed))}: {reasons or _MIXED}; use_reentrant=False in torch.utils.checkpoint is needed here"
            )
        if is_distributed():
            raise ValueError(
                f"{', '.join(map(self._parameters.name, mixed))}: {reasons or _MIXED}; one backward pass for each sequence does not go with DistributedDataParallel or fully_shard"
            )
        parameters = list(mixed)
        found: list[list[Tensor]] = []
        with self._engine.plain(), suspended_hooks(parameters):
            for sequence in range(sequences):
                vector = torch.zeros(sequences, dtype=torch.float64)
                vector[sequence] = 1.0
                own = _weighted_seeds(roots, seeds, plan.layout, vector)
                with weighted(edges, plan.layout, vector):
                    gradients = torch.autograd.grad(
                        roots, parameters, own, retain_graph=True, allow_unused=True, materialize_grads=True
                    )
                found.append([gradient.detach() for gradient in gradients])
        plan.by_autograd = {
            parameter: torch.stack(rows) for parameter, rows in zip(parameters, zip(*found, strict=True), strict=True)
        }


def _may_be_direct(layer: Layer) -> bool:
    """Whether a rule that fits badly is nobody's wish: a guess by the module's looks, a table of shared positions."""
    is_guess = layer.rule.marks_output and not layer.rule.trusted
    return is_guess or isinstance(layer.module, nn.Embedding)


def _no_parameter(leaves: Sequence[Node]) -> str:
    shapes = ", ".join(str(list(leaf.variable.shape)) for leaf in leaves)
    return (
        f"log_probs depends on a tensor that requires a gradient and is no parameter, of shape {shapes}; make it an "
        "nn.Parameter of the module that this Proma is attached to"
    )


def _known_rows(node: Node, plan: Plan) -> bool:
    forms = (form_of(type(node).__name__, shape, plan.layout.sequences) for shape in output_shapes(node))
    kinds = {plan.kinds[form] for form in forms if form in plan.kinds}  # others have received no gradient
    return len(kinds) > 0 and "mixed" not in kinds


def _weighted_seeds(roots: Sequence[Tensor], seeds: Any, layout: Layout, vector: Tensor | None) -> Any:
    """The seeds of the roots; of those that are no sums, with the weights of the sequences."""
    given = [None] * len(roots) if seeds is None else list(seeds)
    if vector is None or layout.sequences == 1:
        return given
    return [
        seed if root.numel() == 1 or seed is None else seed * layout.weights(vector, root)
        for root, seed in zip(roots, given, strict=True)
    ]


def _whole_pass(
    backward: Callable[..., None], roots: Sequence[Tensor], seeds: Any, leaves: Sequence[Node]
) -> list[Tensor | None]:
    """A pass over a graph that cannot be seen in advance, as a reentrant checkpoint allows no other."""
    kept = [leaf.variable.grad for leaf in leaves]
    try:
        for leaf in leaves:
            leaf.variable.grad = None
        backward(list(roots), grad_tensors=seeds, retain_graph=True)
        return [leaf.variable.grad for leaf in leaves]
    finally:
        for leaf, gradient in zip(leaves, kept, strict=True):
            leaf.variable.grad = gradient
