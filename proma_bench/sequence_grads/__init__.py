"""How each kind of layer yields its sequence gradients: one small rule a kind, one way to use what they return."""

from __future__ import annotations

from torch import nn

from proma_bench.sequence_grads.embedding import embedding
from proma_bench.sequence_grads.factors import Dense, OuterProducts, Scattered, SequenceGrads
from proma_bench.sequence_grads.generic import check_rule, generic
from proma_bench.sequence_grads.layout import Layout
from proma_bench.sequence_grads.linear import linear
from proma_bench.sequence_grads.norm import (
    is_transformers_rms_norm,
    layer_norm,
    rms_norm,
    transformers_rms_norm,
)
from proma_bench.sequence_grads.registry import Rule, refusal, register_rule, registered_rule

__all__ = [
    "Dense",
    "Layout",
    "OuterProducts",
    "Rule",
    "Scattered",
    "SequenceGrads",
    "check_rule",
    "embedding",
    "generic",
    "layer_norm",
    "linear",
    "register_rule",
    "rms_norm",
    "rule_for",
    "transformers_rms_norm",
]


def rule_for(module: nn.Module) -> Rule | str | None:
    """The rule of a module; why there cannot be one, in words; or None for a module that only holds others.

    In this order: a user's rule for its very type, a refusal, a rule of ours, and for parameters of the module's own
    the RMSNorms of transformers by their look and the generic rule.
    """
    rule = registered_rule(module)
    if rule is None and next(module.parameters(recurse=False), None) is None:
        return None
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance, where no rule can see it; give it a class of its own"
    if rule is not None and not rule.trusted:
        return rule
    if reason := refusal(module):
        return reason
    if rule is not None:
        return rule
    if is_transformers_rms_norm(module):
        return Rule(transformers_rms_norm, trusted=False, marks_output=True)
    if any(True for child in module.children() for _ in child.parameters()):
        return (
            "they stand beside modules with parameters of their own; move them into a small module, or make the whole "
            f"one layer with register_rule({type(module).__name__})(generic)"
        )
    return Rule(generic, trusted=False, marks_output=False)
