"""Update rules by their names, for runs and for trainers: methods of the projection, and the rules of the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from proma_bench.foreign import FAILURES, described
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.methods import PROJECTION_METHODS
from proma_bench.projection.rules import UPDATE_RULES
from proma_bench.projection.updates import RuleError, UpdateRule

Made = TypeVar("Made")


def rule_named(
    name: str, projection: ProjectionConfig | None = None, settings: Mapping[str, Any] | None = None
) -> UpdateRule:
    """The rule of that name.

    Args:
        name: of a method of `ProjectionConfig` (``iterative``, ``exact``), or in the table of rules (``isopo``).
        projection: the settings of a method, and of the projection inside of a rule that has one (``shrink``); the
            defaults if None. Other rules take no notice of it.
        settings: of a rule of the table, by name.

    Returns:
        What `Proma` takes.

    Raises:
        RuleError: nothing has that name, or it has no such setting, or refuses its value.
    """
    projection, settings = projection or ProjectionConfig(), dict(settings or {})
    if name in PROJECTION_METHODS:
        require_settings(name, settings, ())
        return dataclasses.replace(projection, method=name)
    if name not in UPDATE_RULES:
        raise RuleError(
            f"{name!r} is none of {', '.join(PROJECTION_METHODS)}, and no update rule ({', '.join(UPDATE_RULES)})"
        )
    known = settings_of(name)
    require_settings(name, settings, known - {"projection"})
    inside = {"projection": projection} if "projection" in known else {}
    return made(name, UPDATE_RULES[name], settings | inside)


def settings_of(name: str) -> set[str]:
    """What the rule of the table has for settings."""
    return {field.name for field in dataclasses.fields(UPDATE_RULES[name])}  # type: ignore[arg-type]


def require_settings(name: str, settings: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise RuleError, with those that it has, for a setting that a rule has not."""
    if unknown := sorted(settings.keys() - set(known)):
        raise RuleError(f"{name} has no setting {unknown[0]!r} (it has: {', '.join(sorted(known)) or 'none'})")


def made(name: str, rule: Callable[..., Made], settings: Mapping[str, Any]) -> Made:
    """A rule of this class; its own error as a RuleError, whatever it is, because the class may be somebody else's."""
    try:
        return rule(**settings)
    except FAILURES as error:
        raise RuleError(f"{name}: {described(error).removeprefix('ValueError: ')}") from error
