"""A projection method: damped Jacobi sweeps, which need no triangular solve.

PROMA_BENCH_PLUGINS=examples/plugins/jacobi.py proma-bench run bandit --projection jacobi --sweeps 4
"""

import torch
from torch import Tensor

from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.methods import ProjectionMethod, register_projection_method


class Jacobi:
    """``w <- w + (c - K w) / B``, so many times; ``1 / B`` is below the reciprocal of K's largest eigenvalue."""

    def prepare(self, units: Tensor, tolerance: float) -> tuple[Tensor, ...]:
        return (units,)

    def weights(self, prepared: tuple[Tensor, ...], overlap: Tensor, config: ProjectionConfig) -> Tensor:
        (units,) = prepared
        weights = torch.zeros_like(overlap)
        for _ in range(config.sweeps):
            weights = weights + (overlap - units @ weights) / units.shape[-1]
        return weights


register_projection_method(ProjectionMethod("jacobi", "damped Jacobi sweeps", Jacobi()))
