"""How the engine gets into a module's backward pass: two autograd functions and a replaced ``forward``.

    parameter --> _Gate --.
                           >--> _Tap --> output of the layer, the very tensor
    layer(input; parameters detached) --'

The layer runs as it is, with its parameters detached, so autograd computes the gradient of the layer's input and no
gradient of the weights. ``_Tap`` marks the output: in the backward pass it notes the output gradient beside the saved
input. ``_Gate`` stands between a parameter and all its uses, and autograd calls it once all of them have passed: then
the parameter's sequence gradients are complete, cross terms of tied weights included, and what the gate returns goes
into ``param.grad`` like every gradient. Hooks, DistributedDataParallel and checkpointing notice nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import MethodType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import CheckpointFunction

from proma_bench.backward.layers import layer_rule
from proma_bench.backward.layout import Layout
from proma_bench.backward.registry import LayerRule


@runtime_checkable
class Engine(Protocol):
    """What the taps report to."""

    def gate(self, parameter: Tensor) -> Tensor:
        """The scalar that stands for the parameter in the graph."""

    def capture(self, call: Call, inputs: tuple[Any, ...], grad_output: Tensor) -> None:
        """One call of a layer has received its output gradient."""

    def finish(self, parameter: Tensor) -> Tensor | None:
        """All uses of the parameter have been captured: return its gradient."""

    def knows(self, parameter: Tensor) -> bool:
        """Whether the parameter is one of the module's."""


class Call(NamedTuple):
    """One forward call of a layer.

    Attributes:
        constants: its arguments, with None for the tensors, which autograd keeps.
        parameters: the trainable ones, by their names in the layer.
    """

    layer: Layer
    constants: tuple[Any, ...]
    parameters: dict[str, Tensor]
    output_shape: torch.Size

    def inputs(self, tensors: tuple[Tensor, ...]) -> tuple[Any, ...]:
        """The arguments again, from the tensors that autograd kept."""
        kept = iter(tensors)
        return tuple(next(kept) if value is _TENSOR else value for value in self.constants)


_TENSOR = object()  # marks a tensor's place among the arguments


class Layer:
    """A module with a rule, and where its parameters (and those of its children) are kept."""

    def __init__(self, module: nn.Module, title: str, rule: LayerRule, engine: Engine) -> None:
        self.module, self.title, self.rule, self.engine = module, title, rule, engine
        self.checked = rule.trusted
        self._places = [
            (f"{prefix}.{key}" if prefix else key, child._parameters, key)
            for prefix, child in module.named_modules()
            for key in child._parameters
        ]

    def attach(self) -> None:
        """Replace the module's ``forward``."""
        self.forward = self.module.forward
        self.module.__dict__["_proma_layer"] = self
        self.module.__dict__["forward"] = MethodType(forward, self.module)

    def detach(self) -> None:
        """Put the module's ``forward`` back."""
        del self.module.__dict__["_proma_layer"], self.module.__dict__["forward"]

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # a copied or unpickled module is an ordinary one

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward with its parameters detached and its output tapped."""
        found = [(name, store, key, store[key]) for name, store, key in self._places]
        trainable = [place for place in found if place[3] is not None and place[3].requires_grad]
        if not trainable:
            return self.forward(*args, **kwargs)
        for _, store, key, parameter in trainable:
            store[key] = parameter.detach()  # for the time of this call
        try:
            output = self.forward(*args, **kwargs)
        finally:
            for _, store, key, parameter in trainable:
                store[key] = parameter
        inputs = self._positional(args, kwargs) if kwargs else args
        return self._tap(
            output, inputs, {name: parameter for name, _, _, parameter in trainable if parameter is not None}
        )

    def _tap(self, output: Any, inputs: tuple[Any, ...], parameters: dict[str, Tensor]) -> Tensor:
        if not isinstance(output, Tensor):
            kind = type(output).__name__
            raise TypeError(f"{self.title}: forward returned a {kind}; a layer with a rule must return one tensor")
        if not self.rule.marks_output or output._is_view() or any(output is value for value in inputs):
            output = output.clone()  # only a tensor that nobody else keeps can be marked
        constants = tuple(_TENSOR if isinstance(value, Tensor) else value for value in inputs)
        tensors = [value.detach() for value in inputs if isinstance(value, Tensor)]
        gates = [self.engine.gate(parameter) for parameter in parameters.values()]
        tapped: Tensor = _Tap.apply(  # type: ignore[no-untyped-call]
            output, Call(self, constants, parameters, output.shape), len(tensors), *tensors, *gates
        )
        return tapped

    def _positional(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """The arguments in the order of the signature, because rules take them by position."""
        bound = inspect.signature(self.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        if lost := sorted(bound.kwargs.keys() & kwargs.keys()):
            raise TypeError(f"{self.title}: a layer with a rule takes its arguments by position; got {', '.join(lost)}")
        return bound.args

    def check_shape(self, shape: torch.Size, layout: Layout) -> None:
        """Raise ValueError if an output of this shape does not fit the sequences."""
        if problem := layout.mismatch(shape):
            raise ValueError(f"{self.title} gave an output of {problem}")


def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The ``forward`` of an attached module; a pickled module looks it up in its class by this name."""
    layer: Layer | None = module.__dict__["_proma_layer"]
    if layer is None:  # a copy
        return type(module).forward(module, *args, **kwargs)
    return layer(*args, **kwargs) if torch.is_grad_enabled() else layer.forward(*args, **kwargs)


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, call: Call, saved: int, *tensors_and_gates: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*tensors_and_gates[:saved])
        ctx.mark_dirty(output)  # the same tensor goes on, with another node behind it: no copy and no view
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        tensors = ctx.saved_tensors
        call.layer.engine.capture(call, call.inputs(tensors), grad_output)
        return grad_output, None, None, *[None] * len(tensors), *[None] * len(call.parameters)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: Tensor, engine: Engine) -> Tensor:
        ctx.parameter, ctx.engine = parameter, engine
        ctx.set_materialize_grads(False)
        return parameter.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, None]:
        return ctx.engine.finish(ctx.parameter), None


_TAP_NODE: Any = _Tap._backward_cls
_GATE_NODE: Any = _Gate._backward_cls
_CHECKPOINT_NODE: Any = CheckpointFunction._backward_cls


def new_gate(parameter: Tensor, engine: Engine) -> Tensor:
    """A scalar whose gradient function asks the engine for the parameter's gradient. It may be used in many graphs."""
    gate: Tensor = _Gate.apply(parameter, engine)  # type: ignore[no-untyped-call]
    gate.grad_fn._set_sequence_nr(2**63 - 1)  # type: ignore[union-attr]  # run once ready, before the layers below
    return gate


def layers_of(module: nn.Module, engine: Engine) -> list[Layer]:
    """The layers of a module that hold trainable parameters.

    Raises:
        ValueError: a module is attached already, or no rule covers a parameter.
    """
    seen: set[nn.Module] = set()

    def walk(module: nn.Module, name: str) -> Iterator[Layer]:
        if module in seen or not any(parameter.requires_grad for parameter in module.parameters()):
            return
        seen.add(module)
        title = f"module {name!r} ({type(module).__name__})" if name else f"the module ({type(module).__name__})"
        if module.__dict__.get("_proma_layer") is not None:
            raise ValueError(f"{title} has a Proma attached already; call its remove() first")
        match layer_rule(module):
            case LayerRule() as rule:
                yield Layer(module, title, rule, engine)
            case str(reason):
                own = [key for key, parameter in module.named_parameters(recurse=False) if parameter.requires_grad]
                raise ValueError(f"{title} has parameters that no rule covers ({', '.join(own)}): {reason}")
            case None:
                for key, child in module.named_children():
                    yield from walk(child, f"{name}.{key}" if name else key)

    return list(walk(module, ""))


def tapped_calls(root: Tensor, engine: Engine) -> tuple[list[Call], bool]:
    """The calls of the engine's layers that a graph leads through, and whether a part of it cannot be seen.

    A reentrant checkpoint hides the graph inside of it.

    Raises:
        ValueError: a parameter is not the module's: the backward pass is seeded with ones, so its gradient would
            come without the advantages.
    """
    calls: list[Call] = []
    opaque = False
    stack: list[Any] = [root.grad_fn] if root.grad_fn is not None else []
    seen = {None, *stack}
    while stack:
        node = stack.pop()
        if isinstance(node, _TAP_NODE):
            if node.call.layer.engine is engine:
                calls.append(node.call)
        elif isinstance(node, _CHECKPOINT_NODE):
            opaque = True
        elif not isinstance(node, _GATE_NODE):
            _refuse_foreign(node, engine)
        above = {parent for parent, _ in node.next_functions} - seen
        seen |= above
        stack.extend(above)
    return calls, opaque


def _refuse_foreign(node: Any, engine: Engine) -> None:
    for parent, _ in node.next_functions:
        parameter = getattr(parent, "variable", None)
        if isinstance(parameter, nn.Parameter) and not engine.knows(parameter):
            raise ValueError(
                f"log_probs depends on a parameter of shape {list(parameter.shape)} that is not part of the module "
                "that this Proma is attached to; attach it, once all are there, to a module that holds all of them"
            )
