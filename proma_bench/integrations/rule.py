"""The update rule that the settings of a trainer name."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from proma_bench.projection.config import SETTINGS, ProjectionConfig, projection_config
from proma_bench.projection.methods import PROJECTION_METHODS
from proma_bench.projection.rules import UPDATE_RULES
from proma_bench.projection.updates import UpdateRule


def update_rule(settings: Any) -> UpdateRule:
    """What ``settings.projection`` names: a method of the projection, or another rule of this package.

    A rule has its own defaults, and one with a projection inside (``shrink``) the settings of the iterative one.

    Args:
        settings: a dataclass with the fields SETTINGS of `proma_bench.projection.config`.

    Returns:
        The rule for `Proma`.

    Raises:
        ValueError: a value is out of range or would have no effect, or nothing has that name.
    """
    name = settings.projection
    if name in PROJECTION_METHODS:
        return projection_config(settings)
    if name not in UPDATE_RULES:
        raise ValueError(
            f"projection={name!r} is none of {', '.join(PROJECTION_METHODS)}, and no update rule "
            f"({', '.join(UPDATE_RULES)})"
        )
    rule = UPDATE_RULES[name]
    if "projection" in [field.name for field in dataclasses.fields(rule)]:  # type: ignore[arg-type]
        inside = ProjectionConfig(
            sweeps=settings.sweeps, max_removed=settings.max_removed, shrinkage=settings.shrinkage
        )
        return rule(projection=inside)
    refuse_projection_settings(settings, f"the update rule {name}", SETTINGS.keys() - {"projection"})
    return rule()


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
