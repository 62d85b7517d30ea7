"""The settings of `PROMATrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trl import GRPOConfig

from proma_bench.backward.uncovered import uncovered_setting
from proma_bench.projection.config import ProjectionConfig, projection_config, setting


@dataclass
class PROMAConfig(GRPOConfig):  # type: ignore[misc]  # without its package, Any
    """GRPOConfig, and how the running gradient is projected. The defaults of the projection are the paper's.

    ``uncovered`` is that of `Proma`.
    """

    importance_sampling_level: str = field(
        default="none", metadata={"help": "PROMA weighs by no likelihood ratio; must be 'none'."}
    )
    projection: str = setting("projection")
    sweeps: int = setting("sweeps")
    max_removed: float | None = setting("max_removed")
    shrinkage: float = setting("shrinkage")
    projection_rank: int = setting("projection_rank")
    uncovered: Literal["refuse", "autograd"] = uncovered_setting()

    @property
    def projection_config(self) -> ProjectionConfig:
        """The same for `Proma`.

        Raises:
            ValueError: a value is out of range.
        """
        return projection_config(self)
