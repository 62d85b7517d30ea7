"""The update rule that the settings of a trainer name."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from proma_bench.projection.config import SETTINGS, ProjectionConfig, projection_config
from proma_bench.projection.methods import PROJECTION_METHODS
from proma_bench.projection.named import rule_named, settings_of
from proma_bench.projection.rules import UPDATE_RULES
from proma_bench.projection.updates import RuleError, UpdateRule


def update_rule(settings: Any) -> UpdateRule:
    """What ``settings.projection`` names, with the settings of the projection that it takes notice of.

    Args:
        settings: a dataclass with the fields SETTINGS of `proma_bench.projection.config`.

    Returns:
        The rule for `Proma`; see `rule_named`.

    Raises:
        ValueError: a value is out of range or would have no effect, or nothing has that name.
    """
    name = settings.projection
    if name in PROJECTION_METHODS:
        return projection_config(settings)
    if name in UPDATE_RULES and "projection" not in settings_of(name):
        refuse_projection_settings(settings, f"the update rule {name}", SETTINGS.keys() - {"projection"})
    inside = ProjectionConfig(sweeps=settings.sweeps, max_removed=settings.max_removed, shrinkage=settings.shrinkage)
    try:
        return rule_named(name, inside)
    except RuleError as error:  # which begins with the name
        raise ValueError(f"projection={error}") from error


def refuse_projection_settings(settings: Any, rule: str, names: Collection[str] = SETTINGS) -> None:
    """Refuse settings of the projection that another rule takes no notice of.

    Args:
        settings: a dataclass with the fields SETTINGS.
        rule: in words, for the message.
        names: of the settings without effect.

    Raises:
        ValueError: one of them is not at its default.
    """
    for field in dataclasses.fields(settings):
        if field.name in names and (value := getattr(settings, field.name)) != field.default:
            raise ValueError(f"{field.name}={value!r} has no effect on {rule}; leave it at {field.default!r}")
