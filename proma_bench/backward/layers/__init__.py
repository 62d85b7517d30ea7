"""What each kind of layer contributes: one file per kind, each is found automatically.

A file in this folder registers its rules with `register_rule`; nothing else has to name it. Rules for layers of your
own may be registered from anywhere.
"""

from __future__ import annotations

import importlib
import pkgutil

from torch import nn

from proma_bench.backward.layers.generic import generic
from proma_bench.backward.registry import LayerRule, matching_rule, refusal, registered_rule

for _found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_found.name}")


def layer_rule(module: nn.Module) -> LayerRule | str | None:
    """The rule of a module, or the reason why it cannot have one, or None for a module that only holds others.

    The first of these that there is: a user's rule for exactly this type, a refusal, a built-in rule for the type, a
    rule for modules that look like this one, the generic rule.
    """
    rule = registered_rule(module)
    if rule is None and not any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
        return None
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance, where no rule can see it; give it a class of its own"
    if rule is not None and not rule.trusted:
        return rule
    if reason := refusal(module):
        return reason
    if rule is not None:
        return rule
    if (rule := matching_rule(module)) is not None:
        return rule
    if any(True for child in module.children() for _ in child.parameters()):
        return (
            "they stand beside modules with parameters of their own; move them into a small module, or make the whole "
            f"one layer with register_rule({type(module).__name__})(generic)"
        )
    return LayerRule(generic, trusted=False, marks_output=False)
