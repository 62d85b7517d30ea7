"""From the captured uses of a parameter to its gradient, while a backward pass is under way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from proma_bench.backward.checks import check_rule
from proma_bench.backward.cost import GramMethod
from proma_bench.backward.factored import intra_gradient
from proma_bench.backward.factors import SequenceGrads, compute_dtype
from proma_bench.backward.layout import Layout
from proma_bench.backward.measure import Measured, Workspace, add_weighted, measure, plain_gradient
from proma_bench.backward.parameters import Parameters, is_watched
from proma_bench.backward.records import Records
from proma_bench.backward.taps import Call, new_gate
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.methods import PROJECTION_METHODS
from proma_bench.projection.successive import Removals, square_growth, successive_removals


class _Microbatch:
    """The microbatch whose backward pass is under way.

    Args:
        advantages: one per sequence.
        layout: which row belongs to which sequence.
        size: sequences in each of the virtual microbatches that it consists of; None is one microbatch.

    Attributes:
        finished: parameters that have received their gradient.
        pending: parameters whose running gradient still waits for it.
    """

    def __init__(self, advantages: Tensor, layout: Layout, size: int | None) -> None:
        self.advantages, self.layout = advantages, layout
        self.size = min(size or advantages.shape[0], advantages.shape[0])
        self.finished: set[Tensor] = set()
        self.pending: list[tuple[Tensor, Measured]] = []


class BackwardEngine:
    """The taps of one module report to it; users see it through `Proma`.

    Outside of a microbatch all rows count as one sequence with advantage one, which gives the plain gradient.
    """

    def __init__(
        self,
        module: nn.Module,
        config: ProjectionConfig,
        unprojected: Collection[str],
        workspace_bytes: int,
        gram_method: GramMethod,
        record: bool,
    ) -> None:
        self.config = config
        self._unprojected = unprojected
        self.records: list[Records] = []
        self._gram_method = gram_method
        self.record = record
        self._parameters = Parameters(module)
        self._guards: list[RemovableHandle] = []
        self._workspace = Workspace(workspace_bytes)
        self._microbatch: _Microbatch | None = None
        self._microbatches = 0
        self._gates: dict[Tensor, Tensor] = {}
        self._uses: dict[Tensor, list[SequenceGrads]] = {}
        self._will_end_pass = False
        self._returned: dict[Tensor, Tensor] = {}

    @contextmanager
    def microbatch(self, advantages: Tensor, layout: Layout, size: int | None) -> Iterator[None]:
        """Backward passes in this context belong to one microbatch; RuntimeError if none reached the module."""
        if size is not None and size < 1:
            raise ValueError(f"microbatch_size must be at least 1, got {size}")
        if self._microbatch is not None:
            raise RuntimeError("microbatches cannot be nested: one backward pass, one set of advantages")
        self._forget()
        microbatch = self._microbatch = _Microbatch(advantages, layout, size)
        try:
            yield
        finally:
            self._microbatch = None
            self._forget()
        if not microbatch.finished:
            raise RuntimeError("no gradient of this microbatch came through a trainable layer of the module")
        self._microbatches += -(-advantages.shape[0] // microbatch.size)

    def _forget(self) -> None:
        """Forget what a backward pass has left behind that raised an error half-way."""
        self._will_end_pass = False
        self._workspace.used = 0
        self._uses.clear()
        self._returned.clear()

    def clear_records(self) -> None:
        """Forget the records, and count microbatches from 0 again."""
        self.records.clear()
        self._microbatches = 0

    # ------------------------------------------------------------------------------------- called by the taps

    def gate(self, parameter: Tensor) -> Tensor:
        """The parameter's gate, made again when the parameter has moved to another device or type."""
        self._guard(self._parameters.meet(parameter))
        parameter = self._parameters.canonical(parameter)
        gate = self._gates.get(parameter)
        if gate is None or gate.device != parameter.device or gate.dtype != parameter.dtype:
            gate = self._gates[parameter] = new_gate(parameter, self)
        return gate

    def capture(self, call: Call, inputs: tuple[Any, ...], grad_output: Tensor) -> None:
        """Note what one call of a layer contributes to the sequence gradients of its parameters."""
        if not self._will_end_pass:
            self._will_end_pass = True
            torch.autograd.Variable._execution_engine.queue_callback(self._end_pass)
        layer = call.layer
        if self._microbatch is None:
            layout = Layout(1)
        else:
            layout = self._microbatch.layout
            layer.check_shape(grad_output.shape, layout)
        with _without_autocast(grad_output):
            seq_grads = layer.rule.function(layer.module, inputs, grad_output, layout)
            # gradients that are zero, or sums over a single sequence, would prove nothing
            if not layer.checked and layout.sequences > 1 and bool(grad_output.any()):
                if problem := check_rule(layer.module, inputs, grad_output, seq_grads, layout.sequences):
                    raise ValueError(f"{layer.title}: {problem}")
                layer.checked = True
        for name, parameter in call.parameters.items():
            if name not in seq_grads:
                raise ValueError(f"{layer.title}: its rule gives no gradient for its parameter {name!r}")
            self._uses.setdefault(self._parameters.canonical(parameter), []).append(seq_grads[name])

    def finish(self, parameter: Tensor) -> Tensor | None:
        """The gradient of a parameter all of whose uses have been captured.

        None where there is none, and where the engine changes the running gradient itself before the microbatch ends.
        """
        uses = self._uses.pop(parameter, None)
        if uses is None:
            return None
        with _without_autocast(parameter):
            gradient = self._gradient(parameter, uses)
        if gradient is None:
            return None
        gradient = gradient.reshape(parameter.shape).to(parameter.dtype)
        if self._microbatch is not None:
            self._returned[parameter] = gradient
        return gradient

    def knows(self, parameter: Tensor) -> bool:
        """Whether the parameter is one of the module's."""
        return parameter in self._parameters

    def _end_pass(self) -> None:
        """At the end of a backward pass: finish what is pending, and release what no gate has asked for.

        The latter happens when only the gradient of an input was wanted, as by `torch.autograd.grad`.
        """
        self._will_end_pass = False
        if self._microbatch is not None:
            with torch.no_grad():
                self._update_pending(self._microbatch)
        self._uses.clear()

    # ---------------------------------------------------------------------------------------- the gradient

    def _gradient(self, parameter: Tensor, uses: list[SequenceGrads]) -> Tensor | None:
        microbatch, dtype, shape = self._microbatch, compute_dtype(parameter), parameter.shape or torch.Size([1])
        if microbatch is None:
            return plain_gradient(uses, torch.ones(1, dtype=dtype, device=parameter.device), shape)
        if parameter in microbatch.finished:
            raise RuntimeError(
                f"parameter {self._parameters.name(parameter)!r} received its gradient in two parts, which happens "
                "when a module is shared between reentrant checkpoints; use torch.utils.checkpoint with "
                "use_reentrant=False"
            )
        microbatch.finished.add(parameter)
        advantages = microbatch.advantages.to(parameter.device, dtype)
        if self._parameters.name(parameter) in self._unprojected:
            return plain_gradient(uses, advantages, shape)
        if PROJECTION_METHODS[self.config.method].takes == "factors":
            return self._intra(parameter, uses, advantages, shape, microbatch.size)
        running = self._parameters.running(parameter)
        if running is None and microbatch.size == advantages.shape[0]:
            return plain_gradient(uses, advantages, shape)
        if not self._workspace.has_room((advantages.shape[0] + 1) * parameter.numel(), dtype):
            self._update_pending(microbatch)
        start = self._workspace.used
        running = None if running is None else running.reshape(shape)
        measured = measure(uses, running, shape, advantages, self._workspace, self._gram_method)
        if is_watched(parameter):
            (corrected,) = self._corrected([(parameter, measured)], advantages, microbatch.size)
            gradient = torch.zeros(shape, dtype=dtype, device=parameter.device)
            add_weighted(measured, corrected, gradient)
            self._workspace.used = start
            return gradient
        microbatch.pending.append((parameter, measured))
        if measured.is_partly_kept:
            self._update_pending(microbatch)  # a large tensor: release its factors
        return None

    def _intra(
        self, parameter: Tensor, uses: list[SequenceGrads], advantages: Tensor, shape: torch.Size, size: int
    ) -> Tensor:
        found = intra_gradient(uses, advantages, shape, size, self.config)
        if found is None:
            return plain_gradient(uses, advantages, shape)
        if self.record:
            norms = found.removed_norm.unsqueeze(0), found.norm.unsqueeze(0)
            names, clamped = [self._parameters.name(parameter)], torch.zeros_like(norms[0], dtype=torch.bool)
            self.records.append(Records(names, ["intra"], self._microbatches, [False], *norms, clamped))
        return found.gradient

    def _update_pending(self, microbatch: _Microbatch) -> None:
        """Solve for all pending tensors of one type and place at once, and add to their running gradients in place."""
        groups: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Measured]]] = {}
        for parameter, measured in microbatch.pending:
            groups.setdefault((measured.gram.device, measured.gram.dtype), []).append((parameter, measured))
        for (device, dtype), group in groups.items():
            advantages = microbatch.advantages.to(device, dtype)
            corrected = self._corrected(group, advantages, microbatch.size)
            for (parameter, measured), weights in zip(group, corrected, strict=True):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
                add_weighted(measured, weights, parameter.grad.view(parameter.shape or (1,)))
        microbatch.pending.clear()
        self._workspace.used = 0

    def _corrected(self, group: list[tuple[Tensor, Measured]], advantages: Tensor, size: int) -> Tensor:
        """The corrected advantages [P, N] of P tensors."""
        gram = torch.stack([measured.gram for _, measured in group])
        overlap = torch.stack([measured.overlap for _, measured in group])
        removed = successive_removals(gram, overlap, advantages, size, self.config)
        if self.record:
            growth = square_growth(gram, advantages, removed, size)
            self._keep_records(group, removed, growth)
        return (advantages - removed.coefficients).to(advantages.dtype)

    def _keep_records(self, group: list[tuple[Tensor, Measured]], removed: Removals, growth: Tensor) -> None:
        running = [self._parameters.running(parameter) for parameter, _ in group]
        zero = growth.new_zeros(())
        norms = [zero if gradient is None else torch.linalg.vector_norm(gradient) for gradient in running]
        squares = torch.stack([norm.double() for norm in norms]).square()
        before = squares.unsqueeze(1) + growth.cumsum(dim=1) - growth
        self.records.append(
            Records(
                [self._parameters.name(parameter) for parameter, _ in group],
                [measured.gram_method for _, measured in group],
                self._microbatches,
                [gradient is None for gradient in running],
                removed.norm,
                before.clamp_min(0.0).sqrt(),
                removed.clamped,
            )
        )

    # ------------------------------------------------------------------------- parameters used behind our back

    def guard_parameters(self) -> None:
        """From now on, raise when a parameter receives another gradient in a microbatch than the engine returned."""
        self._guard(self._parameters)

    def release_parameters(self) -> None:
        """Undo `guard_parameters`."""
        for guard in self._guards:
            guard.remove()
        self._guards.clear()

    def _guard(self, parameters: Iterable[Tensor]) -> None:
        self._guards += [p.register_hook(self._check_of(p)) for p in parameters if p.requires_grad]  # type: ignore[no-untyped-call]

    def _check_of(self, parameter: Tensor) -> Callable[[Tensor | None], None]:
        def check(gradient: Tensor | None) -> None:
            if gradient is None or self._microbatch is None:
                return
            returned = self._returned.pop(parameter, None)
            if returned is None or returned.data_ptr() != gradient.data_ptr():
                raise RuntimeError(
                    f"parameter {self._parameters.name(parameter)!r} received a gradient from outside of its module's "
                    "forward (its weights used directly, as in F.linear(x, layer.weight)), or a hook on it that is "
                    "older than Proma changed its gradient; call the module instead, and register such hooks after "
                    "attaching"
                )

        return check


def _without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """No autocast: a caller's backward pass may run under it, but sums over sequences must not."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
