"""What each kind of layer contributes: one file per kind, each is found automatically.

A file in this folder registers its rules with `register_rule`; nothing else has to name it. Rules for layers of your
own may be registered from anywhere.
"""

from __future__ import annotations

import importlib
import pkgutil

import torch
from torch import nn

from proma_bench.backward.registry import LayerRule, is_plain, matching_rule, registered_rule

for _found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_found.name}")


def layer_rule(module: nn.Module) -> LayerRule | None:
    """The rule of a module that has parameters of its own, if there is one that can serve it.

    A user's rule for exactly this type, a built-in rule for the type, or a rule for modules that look like this one. A
    module whose ``forward`` was replaced on the instance has none, as no rule could see what that does. Nor has
    one that was compiled by ``torch.jit``: the modules around it do not call its ``forward``.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return None
    if "forward" in module.__dict__ or not any(True for _ in module.parameters()):
        return None
    rule = registered_rule(module)
    if rule is not None and not rule.trusted:
        return rule
    if not is_plain(module):
        return None
    return rule or matching_rule(module)
