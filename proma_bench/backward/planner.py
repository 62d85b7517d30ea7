"""Makes the plan of a backward pass: it is refused, or it is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from proma_bench.backward.compiled import refuse_compiled
from proma_bench.backward.direct import DirectPass, DirectUses, adds_up, suspended_hooks
from proma_bench.backward.fallback import one_by_one
from proma_bench.backward.graph import Boundary, Node, Survey, boundary, joint, moves_rows, output_shapes
from proma_bench.backward.layout import Layout
from proma_bench.backward.parameters import Parameters, is_distributed
from proma_bench.backward.plan import Plan, Request, Verified, without_accumulation
from proma_bench.backward.rows import digits_base, layout_of, seed_weights
from proma_bench.backward.streams import require_current, require_known
from proma_bench.backward.taps import Layer
from proma_bench.backward.verification import Form, Found, Verification, form_of, observed, weighted, weighted_seeds

_CUTTING = frozenset(("Slice", "Split", "SplitWithSizes", "Unbind", "Select", "Cat", "Stack", "PackPaddedSequence"))
_MIXED = "a row of its output has a part in the log-probs of more than one sequence"


class Planner:
    """Makes the plans of one engine, and remembers what has been verified."""

    def __init__(self, engine: Any, parameters: Parameters) -> None:
        self._engine, self._parameters = engine, parameters
        self._verified: dict[object, Verified] = {}
        self.distrusted: set[Layer] = set()

    def plan(self, request: Request, layout: Layout) -> Plan:
        """What this pass will do; nothing has changed when it raises.

        Raises:
            ValueError: it would give wrong gradients, or gradients to what is not the module's.
        """
        found = request.found
        refuse_compiled(found.moving)
        direct, leaves = self.sort_leaves(found)
        if layout.sequences == 1 and any(leaf.variable.grad is not None for leaf in leaves):  # no input accumulates
            raise ValueError(_no_parameter(leaves))
        uses = DirectUses(request.roots, direct) if direct else None
        plan = Plan(layout, {id(call) for call in found.calls}, found.is_opaque, uses, leaves)
        plan.arriving = frozenset(leaf.variable for leaf in direct)
        self._refuse_impossible(found, direct)
        if not self._engine.check or self._parameters.is_sharded or (found.is_opaque and is_distributed()):
            if uses is not None and uses.choose(lambda node: _fits(node, layout)):
                raise ValueError(f"{self._names(direct)}: used directly, which needs the check of rows; leave it on")
            if not all(layout_of("rows", leaf.variable.shape, layout) for leaf in leaves):
                raise ValueError(_no_parameter(leaves))
            return plan
        edges = boundary(request.roots, layout) if layout.sequences > 1 else []
        self._verify(plan, request, edges)
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
                f"{self._names(direct)}: used inside of a reentrant checkpoint without a layer that has a rule; use "
                "torch.utils.checkpoint with use_reentrant=False"
            )
        return direct, leaves

    def _refuse_impossible(self, found: Survey, direct: list[Node]) -> None:
        for call in found.calls:
            if call.dtype.is_complex:
                raise ValueError(f"{call.layer.title} gave complex numbers; sequence gradients are real")
            for parameter in call.parameters.values():
                if not parameter.requires_grad:
                    raise ValueError(f"{call.layer.title}: a parameter was frozen since the forward pass")
        require_current(gate.stream for gate in found.gates)
        for node in found.sparse:
            raise ValueError(f"{self._names(direct)}: {type(node).__name__} gives sparse gradients; use sparse=False")
        if direct and self._parameters.is_sharded:
            raise ValueError(f"{self._names(direct)}: used directly, which fully_shard does not allow; call a layer")
        if direct and found.is_opaque:
            raise ValueError(
                f"{self._names(direct)}: used without calling a layer that has a rule, beside a reentrant checkpoint; "
                "use torch.utils.checkpoint with use_reentrant=False"
            )

    def _names(self, leaves: Sequence[Node]) -> str:
        return "parameter " + ", ".join(repr(self._parameters.name(leaf.variable)) for leaf in leaves)

    # ------------------------------------------------------------------------------------------- verification

    def _verify(self, plan: Plan, request: Request, edges: list[Boundary]) -> None:
        key = self._key(plan, request.found)
        known = self._verified.get(key)
        if known is not None and self._may_be_trusted(known, request.found, plan):
            if "mixed" in known.kinds.values() and (mixed := self._mixed(plan, request.found, {})):
                self._by_autograd(plan, mixed, request, edges)
            return
        require_known(request.found.gates)
        verification = self._passes(plan, request, edges)
        result, problems = verification.found(), verification.problems
        plan.layouts, reason = result.layouts, _MIXED
        unreached: list[Node] = []
        if plan.direct is not None and not (unreached := plan.direct.choose(verification.has_rows)):
            unreached = self._failing(plan, plan.direct, request, verification)
            plan.direct.choose(verification.has_rows, without=unreached)
            reason = "what uses it cannot be run once more (as inside of a checkpoint), or a hook changes its gradient"
        plan.verified, is_conclusive = _verified(result, plan, request.found)
        mixed = self._mixed(plan, request.found, problems)
        mixed.update({leaf.variable: f"{self._names([leaf])} is used directly: {reason}" for leaf in unreached})
        if mixed:
            self._by_autograd(plan, mixed, request, edges)
        is_lasting = is_conclusive and not plan.verified.can_move
        if is_lasting and not (unreached or problems or plan.is_opaque or verification.is_nested):
            self._verified[key] = plan.verified

    def _key(self, plan: Plan, found: Survey) -> object:
        """The structure of a pass: what holds for one holds for another of the same structure."""
        sequences = plan.layout.sequences
        forms = Counter([form_of(call.layer, call.shape, sequences) for call in found.calls])
        modes = tuple([module.training for module in self._engine.module.modules()])
        names = frozenset(map(self._parameters.name, plan.arriving))
        direct = () if plan.direct is None else _forms(plan.direct.operations, sequences)
        cuts = frozenset(map(plan.layout.cuts, found.viewed))
        joints = tuple([joint(node, sequences) for node in found.joints])
        form = found.kinds, frozenset(forms.items()), cuts, tuple(filter(None, joints)), plan.layout.key
        return form, modes, names, frozenset(direct), len(plan.leaves)

    def _may_be_trusted(self, known: Verified, found: Survey, plan: Plan) -> bool:
        """Whether what was found of the structure holds for this pass: nothing moves with the data, and all fits."""
        plan.verified = known
        axes = 2 if known.has_second else plan.layout.row_axes
        if self._engine.check == "always" or any(moves_rows(node, axes, plan.layout) for node in found.moving):
            return False
        if plan.direct is not None and plan.direct.choose(lambda node: plan.knows_rows(node, output_shapes(node))):
            return False
        if known.is_simple and not plan.layout.has_ids:
            return True
        return all(plan.layout_at((call.layer, -1), call.layer, call.shape) is not None for call in found.calls)

    def _passes(self, plan: Plan, request: Request, edges: list[Boundary]) -> Verification:
        """The passes that change nothing."""
        layout = plan.layout
        kinds = {metadata.dtype for gate in request.found.gates for metadata in gate._input_metadata}
        kinds |= {call.dtype for call in request.found.calls}
        base = digits_base(torch.float16 if torch.float16 in kinds else torch.float32)
        vectors = seed_weights(layout.sequences, base)
        verification = Verification(layout, base, len(vectors) + 1)
        with self._engine.verifying(verification), observed(plan.direct, verification):
            for vector in (*vectors, None):
                verification.start_pass(is_last=vector is None)
                seeds = weighted_seeds(request.roots, request.seeds, layout, vector)
                with nullcontext() if vector is None else weighted(edges, layout, vector):
                    gradients = without_accumulation(plan, request, seeds)
                for leaf, gradient in zip(plan.leaves, gradients, strict=True):
                    if gradient is not None:
                        verification.arrived((leaf, 0), "leaf", gradient)
        return verification

    def _failing(self, plan: Plan, direct: DirectUses, request: Request, verification: Verification) -> list[Node]:
        """The parameters that are used directly for which that does not work, found by trying."""
        found: set[Tensor] = set()

        def note(parameter: Tensor, seq_grads: Tensor, gradient: Tensor) -> Tensor:
            if adds_up(seq_grads, gradient):
                found.add(parameter)
            return gradient

        verification.start_pass(is_last=False)
        leaves = [leaf.variable for leaf in direct.leaves]
        direct_pass = DirectPass(direct, plan.layout.sequences, plan.layout_of_operation, note)
        with self._engine.verifying(verification), suspended_hooks(leaves), direct_pass.installed():
            try:
                without_accumulation(plan, request, request.seeds)
            except Exception as error:  # an operation may be anybody's code
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                return direct.leaves
        return [leaf for leaf in direct.leaves if leaf.variable not in found]

    def _mixed(self, plan: Plan, found: Survey, problems: dict[Layer, str]) -> dict[Tensor, str]:
        """The parameters of layers whose rows cannot be told apart, and why; no reason where that is no refusal."""
        if any(form[0] == "leaf" and kind == "mixed" for form, kind in plan.verified.kinds.items()):
            raise ValueError(_no_parameter(plan.leaves))
        self.distrusted = set(problems)
        reasons = {owner: _MIXED for (owner, *_), kind in plan.verified.kinds.items() if kind == "mixed"}
        wrong = {owner: reason for owner, reason in reasons.items() if isinstance(owner, Layer)} | problems
        calls = {call.layer: call for call in found.calls}
        mixed: dict[Tensor, str] = {}
        for layer, reason in wrong.items():
            if layer not in calls:
                raise ValueError(f"{layer.title}: {reason}; inside of a checkpoint, use use_reentrant=False")
            mixed.update(dict.fromkeys(calls[layer].parameters.values(), f"{layer.title}: {reason}"))
        if all(_may_be_direct(layer) for layer in wrong):
            for layer in wrong:  # from now on through the operations that use its parameters
                layer.is_direct = True
            return dict.fromkeys(mixed, "")
        return mixed

    # ------------------------------------------------------------------------------------------- by autograd

    def _by_autograd(self, plan: Plan, mixed: dict[Tensor, str], request: Request, edges: list[Boundary]) -> None:
        """One backward pass for each sequence, for the parameters that no rule serves."""
        sequences, reasons = plan.layout.sequences, _joined([reason for reason in mixed.values() if reason])
        if reasons and self._engine.uncovered != "autograd":
            raise ValueError(
                f"{reasons} (this module, or one after it, mixes the rows of a batch, as BatchNorm does in training "
                "mode, or sequences are not along its first axis); pass sequence_ids, or attach with Proma(model, "
                f"uncovered='autograd'), which takes {sequences} more backward passes for these parameters"
            )
        names = _joined([self._parameters.name(parameter) for parameter in mixed])
        if plan.is_opaque:
            raise ValueError(f"{names}: {reasons or _MIXED}; use torch.utils.checkpoint with use_reentrant=False")
        if reasons and is_distributed():
            raise ValueError(
                f"{names}: {reasons}; one backward pass for each sequence does not go with "
                "DistributedDataParallel or fully_shard"
            )
        with self._engine.plain():
            plan.by_autograd = one_by_one(request, plan.layout, list(mixed), edges)


def _forms(operations: Iterable[Node], sequences: int) -> Iterator[Form]:
    for node in operations:
        yield from (form_of(type(node).__name__, shape, sequences) for shape in output_shapes(node))


def _fits(node: Node, layout: Layout) -> bool:
    return all(layout_of("rows", shape, layout) is not None for shape in output_shapes(node))


def _verified(found: Found, plan: Plan, survey: Survey) -> tuple[Verified, bool]:
    """What holds for other passes, too, and whether a gradient has arrived wherever one matters.

    Not all operations that were observed are cut at.
    """
    cut = set() if plan.direct is None else set(plan.direct.cut)
    sequences = plan.layout.sequences
    used = set(_forms(cut, sequences))
    used |= {form for form in found.kinds if isinstance(form[0], Layer) or form[0] == "leaf"}
    own = {kind for form, kind in found.kinds.items() if form in used}
    is_turned = "second" in own or "turned" in own
    is_cut_to_length = ("flat" in own or "turned" in own) and not _CUTTING.isdisjoint(
        kind.__name__.removesuffix("Backward0") for kind, *_ in survey.kinds
    )  # rows of sequences without their padding fall into place only if all are as long
    can_move = "moving" in own or is_cut_to_length
    return Verified(found.kinds, own <= {"rows"}, is_turned, can_move), not found.silent & used


def _joined(reasons: Sequence[str], most: int = 3) -> str:
    """The first few different ones, and how many there are beyond."""
    found = list(dict.fromkeys(reasons))
    more = f"; and {len(found) - most} more" if len(found) > most else ""
    return "; ".join(found[:most]) + more


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
