"""PROMA (Projected Microbatch Accumulation, arXiv 2601.10498): the algorithm, and a ladder of benchmarks around it.

The names below are imported on first use, so that ``import proma_bench`` and the command line start without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proma_bench.backward import Proma
    from proma_bench.projection import ProjectionConfig, accumulate, corrected_advantages, project
    from proma_bench.sequence_grads import register_rule

__version__ = "0.1.0"
__all__ = ["ProjectionConfig", "Proma", "accumulate", "corrected_advantages", "project", "register_rule"]

_HOMES = {
    "Proma": "backward",
    "ProjectionConfig": "projection",
    "accumulate": "projection",
    "corrected_advantages": "projection",
    "project": "projection",
    "register_rule": "sequence_grads",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
