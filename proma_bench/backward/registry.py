"""Which rule serves which module: one rule per layer kind, open to users' own layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from proma_bench.backward.factors import SequenceGrads
from proma_bench.backward.layout import Layout

RuleFunction = Callable[[Any, tuple[Any, ...], Tensor, Layout], dict[str, SequenceGrads]]
"""``rule(module, inputs, grad_output, layout)``: the sequence gradients of the module's trainable parameters, by name.

``inputs`` are the positional arguments of the call, tensors detached. The gradients are those of one call; the engine
adds up several. ``layout.group`` puts the rows of a tensor in the order of the sequences.
"""


class LayerRule(NamedTuple):
    """A rule, and what is known of the modules that it serves.

    Attributes:
        trusted: exempt from the one check against autograd that each module gets on its first use.
        marks_output: nothing keeps the module's output for the backward pass, so it can be marked without a copy.
    """

    function: RuleFunction
    trusted: bool
    marks_output: bool


_RULES: dict[type[nn.Module], LayerRule] = {}
_MATCHING: list[tuple[Callable[[nn.Module], bool], LayerRule]] = []


def register_rule(*module_types: type[nn.Module], trusted: bool = False) -> Callable[[RuleFunction], RuleFunction]:
    """Decorate a rule for these module types, and for subclasses that keep their ``forward``.

    The rule must return the sequence gradients of every parameter that requires a gradient, those of child modules
    included (``"child.weight"``): a module with a rule is one layer, even if it has child modules. On the first
    backward pass of each module their sum is compared with autograd's gradient, unless the rule is ``trusted``.

        register_rule(MyLayer)(generic)      # MyLayer's rows are independent: per-row gradients by torch.func

    Raises:
        TypeError: something is not a module type.
    """
    for module_type in module_types:
        if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)):
            raise TypeError(f"register_rule takes subclasses of torch.nn.Module, got {module_type!r}")

    def register(function: RuleFunction) -> RuleFunction:
        for module_type in module_types:
            _RULES[module_type] = LayerRule(function, trusted, marks_output=trusted)
        return function

    return register


def register_matching(matches: Callable[[nn.Module], bool]) -> Callable[[RuleFunction], RuleFunction]:
    """Decorate a rule for all modules that ``matches`` accepts, for layers of which every library has its own class."""

    def register(function: RuleFunction) -> RuleFunction:
        _MATCHING.append((matches, LayerRule(function, trusted=False, marks_output=True)))
        return function

    return register


def matching_rule(module: nn.Module) -> LayerRule | None:
    """The rule registered for modules that look like this one."""
    return next((rule for matches, rule in _MATCHING if matches(module)), None)


def registered_rule(module: nn.Module) -> LayerRule | None:
    """The rule registered for the module's type, or for a base class whose ``forward`` it keeps."""
    for base in type(module).__mro__:
        if base in _RULES and (base is type(module) or type(module).forward is base.forward):
            return _RULES[base]
    return None


def is_plain(module: nn.Module) -> bool:
    """Whether the module's ``forward`` uses the parameters of its class, as a built-in rule assumes.

    Not so for a parametrized or a weight-normed one, whose weight is computed before ``forward``, and for an embedding
    that ties the rows of a batch together. Their parameters are used directly (`direct`).
    """
    if is_parametrized(module) or not all(key in ("weight", "bias") for key in module._parameters):
        return False
    return "weight" in module._parameters and not getattr(module, "scale_grad_by_freq", False)
