"""From the captured uses of a parameter to its gradient, while a backward pass is under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from proma_bench.projection import ProjectionConfig
from proma_bench.sequence_grads import Layout, SequenceGrads, check_rule
from proma_bench.sequence_grads.correction import Workspace, corrected_gradient, plain_gradient
from proma_bench.sequence_grads.registry import compute_dtype
from proma_bench.taps import Call, new_gate


class _Microbatch:
    """The microbatch whose backward pass is under way."""

    def __init__(self, advantages: Tensor, layout: Layout) -> None:
        self.advantages, self.layout = advantages, layout
        self.finished: set[Tensor] = set()


class BackwardEngine:
    """What the taps of one module report to; `Proma` is its face.

    Outside of a microbatch all rows count as one sequence with advantage one, which gives the plain gradient.
    """

    def __init__(
        self, module: nn.Module, config: ProjectionConfig, workspace_bytes: int, record: bool
    ) -> None:
        self.config = config
        self.records: list[tuple[str, int, Tensor, Tensor, Tensor]] = []
        self._record = record
        self._names = {parameter: name for name, parameter in module.named_parameters()}
        self._workspace = Workspace(workspace_bytes)
        self._microbatch: _Microbatch | None = None
        self._microbatches = 0
        self._gates: dict[Tensor, Tensor] = {}
        self._uses: dict[Tensor, list[SequenceGrads]] = {}
        self._returned: dict[Tensor, Tensor] = {}

    @contextmanager
    def microbatch(self, advantages: Tensor, layout: Layout) -> Iterator[None]:
        """Backward passes in here are those of one microbatch; raises RuntimeError if none reached the module."""
        if self._microbatch is not None:
            raise RuntimeError("microbatches cannot be nested: one backward pass, one set of advantages")
        microbatch = self._microbatch = _Microbatch(advantages, layout)
        try:
            yield
        finally:
            self._microbatch = None
            self._uses.clear()
            self._returned.clear()
        if not microbatch.finished:
            raise RuntimeError("no gradient of this microbatch came through a trainable layer of the module")
        self._microbatches += 1

    def clear_records(self) -> None:
        """Forget the records, and count microbatches from 0 again."""
        self.records.clear()
        self._microbatches = 0

    # ------------------------------------------------------------------------------------- called by the taps

    def gate(self, parameter: Tensor) -> Tensor:
        """The parameter's gate, made anew when the parameter has moved to another device or type."""
        gate = self._gates.get(parameter)
        if gate is None or gate.device != parameter.device or gate.dtype != parameter.dtype:
            gate = self._gates[parameter] = new_gate(parameter, self)
        return gate

    def capture(self, call: Call, inputs: tuple[Any, ...], grad_output: Tensor) -> None:
        """Note what one call of a layer contributes to the sequence gradients of its parameters."""
        layer, layout = call.layer, Layout(1)
        if self._microbatch is not None:
            layout = self._microbatch.layout
            layer.check_shape(grad_output.shape, layout)
        with _without_autocast(grad_output):
            seq_grads = layer.rule.function(layer.module, inputs, grad_output, layout)
            if not layer.checked:
                if problem := check_rule(layer.module, inputs, grad_output, seq_grads, layout.sequences):
                    raise ValueError(f"{layer.title}: {problem}")
                layer.checked = True
        for name, parameter in call.parameters.items():
            if name not in seq_grads:
                raise ValueError(f"{layer.title}: its rule gives no gradient for its parameter {name!r}")
            self._uses.setdefault(parameter, []).append(seq_grads[name])

    def finish(self, parameter: Tensor) -> Tensor | None:
        """The gradient of a parameter all of whose uses have been captured."""
        uses = self._uses.pop(parameter, None)
        if uses is None:
            return None
        with _without_autocast(parameter):
            gradient = self._gradient(parameter, uses).reshape(parameter.shape).to(parameter.dtype)
        if self._microbatch is not None:
            self._returned[parameter] = gradient
        return gradient

    def _gradient(self, parameter: Tensor, uses: list[SequenceGrads]) -> Tensor:
        shape, dtype = parameter.shape or torch.Size([1]), compute_dtype(parameter)
        microbatch = self._microbatch
        if microbatch is None:
            return plain_gradient(uses, torch.ones(1, dtype=dtype, device=parameter.device), shape, dtype)
        if parameter in microbatch.finished:
            raise RuntimeError(
                f"parameter {self._name(parameter)!r} received its gradient in two parts, which happens when a module "
                "is shared between reentrant checkpoints; use torch.utils.checkpoint with use_reentrant=False"
            )
        microbatch.finished.add(parameter)
        advantages = microbatch.advantages.to(parameter.device)
        if parameter.grad is None:
            return plain_gradient(uses, advantages, shape, dtype)
        running = parameter.grad.reshape(shape)
        gradient, removed = corrected_gradient(uses, running, advantages, self.config, self._workspace, dtype)
        if self._record:
            norm = torch.linalg.vector_norm(running, dtype=torch.float64)
            self.records.append(
                (self._name(parameter), self._microbatches, removed.norm, norm, removed.clamped)
            )
        return gradient

    # ------------------------------------------------------------------------- parameters used behind our back

    def guard_parameters(self) -> list[RemovableHandle]:
        """Hooks that raise when a parameter's gradient, in a microbatch, is not the one that the engine returned."""
        return [p.register_hook(self._guard(p)) for p in self._names if p.requires_grad]

    def _guard(self, parameter: Tensor) -> Callable[[Tensor], None]:
        def check(gradient: Tensor) -> None:
            returned = self._returned.pop(parameter, None)
            if self._microbatch is not None and (
                returned is None or returned.data_ptr() != gradient.data_ptr()
            ):
                raise RuntimeError(
                    f"parameter {self._name(parameter)!r} received a gradient from outside of its module's forward "
                    "(its weights used directly, as in F.linear(x, layer.weight)); call the module instead"
                )

        return check

    def _name(self, parameter: Tensor) -> str:
        return self._names.get(parameter, "(replaced since Proma was attached)")


def _without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Backward passes may run under a caller's autocast; sums over sequences must not."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
