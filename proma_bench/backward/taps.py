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
import threading
import weakref
from collections.abc import Iterator
from types import MethodType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from proma_bench.backward.compiled import uncompiled
from proma_bench.backward.layers import layer_rule
from proma_bench.backward.registry import LayerRule
from proma_bench.backward.selective import is_stored
from proma_bench.backward.streams import current_stream


@runtime_checkable
class Engine(Protocol):
    """What the taps report to."""

    def gate(self, parameter: Tensor) -> Tensor:
        """The scalar that stands for the parameter in the graph."""

    def capture(self, call: Call, inputs: tuple[Any, ...], output: Tensor | None, grad_output: Tensor) -> None:
        """One call of a layer has received its output gradient. The output comes with it where the rule wants it."""

    def finish(self, parameter: Tensor) -> Tensor | None:
        """All uses of the parameter have been captured: return its gradient."""


class Call(NamedTuple):
    """One forward call of a layer.

    Attributes:
        module: the layer's, with the settings that it had then; its parameters are those that it has now.
        constants: its arguments, with None for the tensors, which autograd keeps.
        parameters: the trainable ones, by their names in the layer.
        shape: of its output; dtype likewise.
    """

    layer: Layer
    module: nn.Module
    constants: tuple[Any, ...]
    parameters: dict[str, Tensor]
    shape: torch.Size
    dtype: torch.dtype

    def inputs(self, tensors: tuple[Tensor, ...]) -> tuple[Any, ...]:
        """The arguments again, from the tensors that autograd kept."""
        kept = iter(tensors)
        return tuple(next(kept) if value is _TENSOR else value for value in self.constants)


_TENSOR = object()  # marks a tensor's place among the arguments


class Layer:
    """A module with a rule, and where its parameters (and those of its children) are kept.

    Attributes:
        checked: the structures for which its rule has been compared with autograd (`checks`).
        is_direct: whether its parameters are used directly from now on (`direct`), without its rule.
        lock: held while its parameters are detached, and by whoever must not find them so.
    """

    def __init__(self, module: nn.Module, title: str, rule: LayerRule, engine: Engine) -> None:
        self.module, self.title, self.rule, self.engine = module, title, rule, engine
        self.checked: set[object] = set()
        self.is_direct = False
        self._places = [
            (f"{prefix}.{key}" if prefix else key, child._parameters, key)
            for prefix, child in module.named_modules()
            for key in child._parameters
        ]
        self._sizes = [(child._parameters, len(child._parameters)) for child in module.modules()]
        self.lock = threading.RLock()

    def attach(self) -> None:
        """Replace the module's ``forward``."""
        self.forward = self.module.forward
        self.module.__dict__["_proma_layer"] = self
        self.module.__dict__["forward"] = MethodType(forward, self.module)

    def detach(self) -> None:
        """Put the module's ``forward`` back, unless somebody else has replaced it since."""
        if self.module.__dict__.get("_proma_layer") is self:
            del self.module.__dict__["_proma_layer"]
            if is_ours(self.module.__dict__.get("forward")):
                del self.module.__dict__["forward"]

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # a copied or unpickled module is an ordinary one

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward with its parameters detached and its output tapped.

        As it is where its parameters have been exchanged for others by name since (pruning, weight norm), or where
        arguments are given that a rule cannot see: then they are used directly (`direct`).
        """
        inputs = self._positional(args, kwargs) if kwargs else args
        if self.rule.marks_output:
            trainable = self._trainable()
            if not trainable or inputs is None:
                return self.forward(*args, **kwargs)
            return self._tap_detached(trainable, inputs)
        with self.lock:  # another thread must not find detached parameters
            trainable = self._trainable()
            if not trainable or inputs is None:
                return self.forward(*args, **kwargs)
            for _, store, key, parameter in trainable:
                store[key] = parameter.detach()  # for the time of this call
            try:
                output = self.forward(*args, **kwargs)
            finally:
                for _, store, key, parameter in trainable:
                    store[key] = parameter
        return self._tap(self.module, output, inputs, {name: parameter for name, _, _, parameter in trainable})

    def _tap_detached(self, trainable: list[tuple[str, Any, str, nn.Parameter]], inputs: tuple[Any, ...]) -> Tensor:
        """The output with detached parameters, tapped, of a layer without children and side effects.

        The module itself keeps its parameters all the while, so that no other thread can find them missing. Its rule
        will see the settings of this call, such as ``eps``, whatever becomes of them until the backward pass.
        """
        shadow = object.__new__(type(self.module))
        shadow.__dict__.update(self.module.__dict__)
        shadow.__dict__["_parameters"] = self.module._parameters | {key: p.detach() for _, _, key, p in trainable}
        output = type(self.module).forward(shadow, *inputs)
        shadow.__dict__["_parameters"] = self.module._parameters
        return self._tap(shadow, output, inputs, {name: p for name, _, _, p in trainable})

    def _trainable(self) -> list[tuple[str, Any, str, nn.Parameter]]:
        if self.is_direct or any(len(store) != size for store, size in self._sizes):
            return []
        found = [(name, store, key, store.get(key)) for name, store, key in self._places]
        if not all(parameter is None or parameter.is_leaf for *_, parameter in found):
            return []  # computed from something else, as by functional_call
        return [place for place in found if place[3] is not None and place[3].requires_grad]

    def _tap(self, module: nn.Module, output: Any, inputs: tuple[Any, ...], parameters: dict[str, Tensor]) -> Tensor:
        if not isinstance(output, Tensor):
            kind = type(output).__name__
            raise TypeError(f"{self.title}: forward returned a {kind}; a layer with a rule must return one tensor")
        if output.is_nested:
            raise TypeError(f"{self.title} gave a nested tensor; pad its rows, or pack them and pass sequence_ids")
        tensors = [value.detach() for value in inputs if isinstance(value, Tensor)]
        is_kept = output._is_view() or any(output is value for value in inputs) or is_stored()
        if is_kept or not self.rule.marks_output:
            computed, output = output, output.clone()  # only a tensor that nobody else keeps can be marked
        if not self.rule.marks_output:
            tensors.append(computed.detach())  # to see whether what is recomputed is what was computed
        constants = tuple(_TENSOR if isinstance(value, Tensor) else value for value in inputs)
        gates = [self.engine.gate(parameter) for parameter in parameters.values()]
        call = Call(self, module, constants, parameters, output.shape, output.dtype)
        tapped: Tensor = _Tap.apply(output, call, len(tensors), *tensors, *gates)  # type: ignore[no-untyped-call]
        return tapped

    def _positional(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
        """The arguments in the order of the signature, because rules take them by position; None if that is not all."""
        bound = inspect.signature(self.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        return None if bound.kwargs.keys() & kwargs.keys() else bound.args


def is_ours(value: object) -> bool:
    """Whether this is the ``forward`` of an attached module, or of a copy of one."""
    return isinstance(value, MethodType) and value.__func__ is forward


def remove_traces(module: nn.Module) -> None:
    """Make a copy of an attached module the ordinary module that it is."""
    if "_proma_layer" in module.__dict__ and module.__dict__["_proma_layer"] is None:
        del module.__dict__["_proma_layer"]
        if is_ours(module.__dict__.get("forward")):
            del module.__dict__["forward"]


@uncompiled
def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The ``forward`` of an attached module; a pickled module looks it up in its class by this name."""
    layer: Layer | None = module.__dict__.get("_proma_layer")
    if layer is None:  # a copy, or detached while somebody else keeps this forward
        return type(module).forward(module, *args, **kwargs)
    if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return layer.forward(*args, **kwargs)  # within `torch.func.vmap`, say, its parameters are used directly
    return layer(*args, **kwargs)


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, call: Call, saved: int, *tensors_and_gates: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*tensors_and_gates[:saved])
        ctx.mark_dirty(output)  # the same tensor goes on, with another node behind it: no copy and no view
        return output

    @staticmethod
    @uncompiled
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        _refuse_to_be_differentiated(call.layer.title)
        tensors = ctx.saved_tensors
        computed = None if call.layer.rule.marks_output else tensors[-1]
        call.layer.engine.capture(call, call.inputs(tensors), computed, grad_output)
        return grad_output, None, None, *[None] * len(tensors), *[None] * len(call.parameters)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: Tensor, engine: Engine) -> Tensor:
        ctx.parameter, ctx.engine = parameter, weakref.ref(engine)  # a strong one would be a cycle through C++
        ctx.stream = current_stream(parameter.device)
        ctx.set_materialize_grads(False)
        return parameter.new_zeros(())

    @staticmethod
    @uncompiled
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, None]:
        engine = ctx.engine()
        return None if engine is None else engine.finish(ctx.parameter), None


def _refuse_to_be_differentiated(title: str) -> None:
    """A gradient of a gradient, as for a penalty or a force, would miss the parameters, which are detached."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{title}: a gradient through it was asked for with create_graph=True, which a layer with a rule cannot "
            "give; leave this module out of Proma, or compute such gradients by finite differences"
        )


TAP_NODE: Any = _Tap._backward_cls
GATE_NODE: Any = _Gate._backward_cls


class Gates:
    """The gates of an engine: one for each parameter, for all uses of it, in however many graphs.

    One is made again when the parameter has another type, device or stream than before. With the old one goes
    autograd's own node for the parameter, which belongs to the old stream as well.
    """

    def __init__(self) -> None:
        self._made: dict[Tensor, tuple[Tensor, object]] = {}

    def of(self, parameter: Tensor, engine: Engine) -> Tensor:
        """The parameter's gate."""
        place = current_stream(parameter.device), parameter.dtype
        gate, made_for = self._made.get(parameter, (None, None))
        if gate is None or made_for != place:
            self._made.pop(parameter, None)
            del gate  # before another one is made, which would otherwise get the same node
            gate = _Gate.apply(parameter, engine)  # type: ignore[no-untyped-call]
            gate.grad_fn._set_sequence_nr(2**63 - 1)  # run once ready, before the layers below
            self._made[parameter] = gate, place
        return gate


def layers_of(module: nn.Module, engine: Engine) -> list[Layer]:
    """The layers of a module that have a rule, trainable or not: what is trainable is seen in each forward pass.

    Raises:
        ValueError: a module is attached already, or wants sparse gradients.
    """
    seen: set[nn.Module] = set()

    def walk(module: nn.Module, name: str) -> Iterator[Layer]:
        if module in seen:
            return
        seen.add(module)
        title = f"module {name!r} ({type(module).__name__})" if name else f"the module ({type(module).__name__})"
        remove_traces(module)
        if getattr(module, "sparse", False) and isinstance(module, nn.Embedding | nn.EmbeddingBag):
            raise ValueError(f"{title} wants sparse gradients, which the running gradient is not; set sparse=False")
        if "_proma_layer" in module.__dict__:
            raise ValueError(f"{title} has a Proma attached already; call its remove() first")
        rule = layer_rule(module)
        if rule is not None:
            yield Layer(module, title, rule, engine)
            return
        for key, child in module.named_children():
            yield from walk(child, f"{name}.{key}" if name else key)

    return list(walk(module, ""))
