"""The update rule of a run: the projection, a rule of this package, or a function that the user has named.

Only the command line or a configuration can name one, never a run's directory. What its file says is stored with the
run, and a run goes on with no other.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from proma_bench import named
from proma_bench.errors import UsageError
from proma_bench.learning.config import RunConfig
from proma_bench.learning.methods import method_named
from proma_bench.projection.config import projection_config
from proma_bench.projection.named import made, require_settings, rule_named
from proma_bench.projection.recursion import Before, successive_updates
from proma_bench.projection.rules import UPDATE_RULES
from proma_bench.projection.updates import EXTRAS, AnyRule, RuleError, as_rule, memory_size

MOST_TRIED = 64
"""Sequences with which a rule is tried before a run."""


@dataclass(frozen=True)
class ChosenRule:
    """An update rule, and the text of the file it is from (None for one of this package)."""

    rule: AnyRule
    source: str | None = None


def chosen_rule(config: RunConfig) -> ChosenRule:
    """The rule of the run's method.

    Raises:
        UsageError: it cannot be used, or not with these settings.
    """
    name = method_named(config.method).rule
    if name is None:
        return ChosenRule(projection_config(config))
    if name not in UPDATE_RULES:
        return users_rule(name, config.rule_settings, config.microbatch_size)
    try:
        return ChosenRule(rule_named(name, projection_config(config), config.rule_settings))
    except RuleError as error:
        raise UsageError(str(error)) from error


def users_rule(name: str, settings: Mapping[str, float] | None = None, sequences: int = 4) -> ChosenRule:
    """The rule ``FILE.py:NAME`` or ``PACKAGE.MODULE:NAME``, tried on a few numbers.

    Args:
        name: where it is. It may be a function, or a class of rules.
        settings: keyword arguments of the function, or of the class.
        sequences: in a microbatch of the run.

    Raises:
        UsageError: it cannot be imported, or gives no update.
    """
    settings = settings or {}
    rule: AnyRule
    rule, source = named.load(name)
    try:
        if isinstance(rule, type):
            rule = made(name, rule, settings)
        elif settings:
            require_settings(name, settings, _settings_of(rule))
            rule = functools.partial(rule, **settings)
        for size in sorted({4, min(sequences, MOST_TRIED)}):
            _try_out(rule, size)
    except RuleError as error:
        raise UsageError(str(error)) from error
    return ChosenRule(rule, source)


def _settings_of(rule: Callable[..., Any]) -> list[str]:
    parameters = list(inspect.signature(rule).parameters.values())[3:]
    known = [one.name for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return [name for name in known if name not in EXTRAS]


def _try_out(rule: AnyRule, sequences: int) -> None:
    """Let the rule take these sequences of two tensors, at once and one by one, with and without a running gradient.

    Raises:
        RuleError: it does not give an update.
    """
    checked, generator = as_rule(rule), torch.Generator().manual_seed(0)
    memory = torch.zeros(2, memory_size(checked)).double()
    rows, advantages = (
        torch.randn(*shape, generator=generator).double() for shape in ((2, sequences, 9), (sequences,))
    )
    running = torch.randn(2, 9, generator=generator).double()
    for before in (torch.zeros_like(running), running):
        overlap = (rows @ before.unsqueeze(-1)).squeeze(-1)
        for size in {1, sequences}:
            known = Before(before.norm(dim=1), memory)
            successive_updates(rows @ rows.mT, overlap, advantages, size, checked, known)
