"""PROMA (Projected Microbatch Accumulation, arXiv 2601.10498): the algorithm, and a ladder of benchmarks around it.

The names below are imported on first use, so that ``import proma_bench`` and the command line start without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proma_bench.backward.proma import Proma
    from proma_bench.backward.registry import register_rule
    from proma_bench.projection.config import ProjectionConfig
    from proma_bench.projection.gram import corrected_advantages
    from proma_bench.projection.literal import accumulate, project

__version__ = "0.1.0"
__all__ = ["ProjectionConfig", "Proma", "accumulate", "corrected_advantages", "project", "register_rule"]

_HOMES = {
    "Proma": "backward.proma",
    "ProjectionConfig": "projection.config",
    "accumulate": "projection.literal",
    "corrected_advantages": "projection.gram",
    "project": "projection.literal",
    "register_rule": "backward.registry",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
