"""The settings of a run: one dataclass for what every rung shares, one for each rung.

Plain values only, and no import of torch: the command line builds its options and its help from these classes.
Defaults follow the paper's run (arXiv 2601.10498) where the rung allows it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from proma_bench.config.base import BUDGETS, METHODS, PROJECTIONS, RunConfig
from proma_bench.config.language import LLMConfig, TransformerConfig
from proma_bench.config.small import BanditConfig, GymConfig
from proma_bench.errors import require_known

__all__ = [
    "BUDGETS",
    "CONFIGS",
    "METHODS",
    "PROJECTIONS",
    "BanditConfig",
    "GymConfig",
    "LLMConfig",
    "RunConfig",
    "TransformerConfig",
    "from_json",
    "to_json",
]

_CLASSES = (BanditConfig, GymConfig, TransformerConfig, LLMConfig)
CONFIGS: dict[str, type[RunConfig]] = {config.tier: config for config in _CLASSES}


def to_json(config: RunConfig) -> dict[str, Any]:
    """The settings as stored in ``config.json``."""
    return {"tier": config.tier, **dataclasses.asdict(config)}


def from_json(stored: dict[str, Any]) -> RunConfig:
    """The settings that :func:`to_json` stored. Raises UsageError for an unknown rung or setting."""
    require_known("tier", stored.get("tier", ""), CONFIGS)
    config = CONFIGS[stored["tier"]]
    known = {field.name for field in dataclasses.fields(config)}
    for name in stored.keys() - {"tier"}:
        require_known("setting", name, known)
    return config(**{name: value for name, value in stored.items() if name != "tier"})
