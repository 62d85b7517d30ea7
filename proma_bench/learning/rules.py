"""The update rule of a run: the projection, a rule of this package, or a function in a file that the user has named.

Only the command line or a configuration can name a file, never a run's directory. What the file says is stored with the
run, and a run goes on with no other.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from proma_bench import files
from proma_bench.errors import UsageError
from proma_bench.learning.config import RunConfig
from proma_bench.learning.methods import method_named
from proma_bench.projection.config import projection_config
from proma_bench.projection.named import made, require_settings, rule_named
from proma_bench.projection.recursion import Before, successive_updates
from proma_bench.projection.rules import UPDATE_RULES
from proma_bench.projection.updates import EXTRAS, AnyRule, RuleError, as_rule, memory_size


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
        return users_rule(name, config.rule_settings)
    try:
        return ChosenRule(rule_named(name, projection_config(config), config.rule_settings))
    except RuleError as error:
        raise UsageError(str(error)) from error


def users_rule(name: str, settings: Mapping[str, float] | None = None) -> ChosenRule:
    """The rule ``FILE.py:NAME``, tried on a few numbers.

    Args:
        name: where it is. It may be a function, or a class of rules.
        settings: keyword arguments of the function, or of the class.

    Raises:
        UsageError: it cannot be imported, or gives no update.
    """
    source, settings = source_of(name), settings or {}
    rule: AnyRule = _function(name, source)
    try:
        if isinstance(rule, type):
            rule = made(name, rule, settings)
        elif settings:
            require_settings(name, settings, _settings_of(rule))
            rule = functools.partial(rule, **settings)
        _try_out(rule)
    except RuleError as error:
        raise UsageError(str(error)) from error
    return ChosenRule(rule, source)


def _settings_of(rule: Callable[..., Any]) -> list[str]:
    parameters = list(inspect.signature(rule).parameters.values())[3:]
    known = [one.name for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return [name for name in known if name not in EXTRAS]


def source_of(name: str) -> str:
    """The text of the file of ``FILE.py:NAME``.

    Raises:
        UsageError: it cannot be read.
    """
    path = _path(name)
    try:
        with files.opened(path, files.MEGABYTE, follow_links=True) as file:
            return file.read().decode()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {path}: it is not UTF-8") from error


def _function(name: str, source: str) -> Callable[..., Any]:
    """What the file defines under NAME. Other modules beside the file can be imported from there."""
    path, _, function = name.rpartition(":")
    file = _path(name).resolve()
    module = ModuleType(f"_rules_in_{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        exec(compile(source, str(file), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"cannot import {path}: {reason}") from error
    found = getattr(module, function, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(function, known, n=1, cutoff=0.0)
        raise UsageError(f"{path} has no function {function!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return found


def _path(name: str) -> Path:
    return Path(name.rpartition(":")[0]).expanduser()


def _try_out(rule: AnyRule) -> None:
    """Let the rule take one and several microbatches of two tensors, with and without a running gradient.

    Raises:
        RuleError: it does not give an update.
    """
    checked, generator = as_rule(rule), torch.Generator().manual_seed(0)
    memory = torch.zeros(2, memory_size(checked)).double()
    rows, advantages = (torch.randn(*shape, generator=generator).double() for shape in ((2, 4, 9), (4,)))
    running = torch.randn(2, 9, generator=generator).double()
    for before in (torch.zeros_like(running), running):
        overlap = (rows @ before.unsqueeze(-1)).squeeze(-1)
        for size in (1, 4):
            known = Before(before.norm(dim=1), memory)
            successive_updates(rows @ rows.mT, overlap, advantages, size, checked, known)
