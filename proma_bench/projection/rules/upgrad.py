"""UPGrad: each sequence's gradient is moved as little as it takes to be in conflict with none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from proma_bench.projection.updates import register_update_rule


@register_update_rule
@dataclass(frozen=True)
class UPGrad:
    """The sum of projections on the dual cone (Quinton and Rey, arXiv 2406.16232, section 3), sequences as tasks.

    The gradient of task i is ``g_i = a_i S_i``. Its projection ``v_i`` is the nearest vector to it with
    ``<v_i, g_j> >= 0`` for all j, and so of the form ``v_i = g_i + sum_j w_ij g_j`` with ``w >= 0``. It is found by
    Hildreth's method (1957), a Gauss-Seidel sweep as that of the iterative projection. For each j in order:

        w_ij <- max(0, w_ij - <v_i, g_j> / ||g_j||^2)

    The step adds ``sum_i v_i``. With few sweeps, tasks that conflict in many ways are not quite free of it.

    Attributes:
        sweeps: number of passes over the tasks, at least 1.
    """

    sweeps: int = 20

    name: ClassVar[str] = "upgrad"
    plain_first: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (isinstance(self.sweeps, int) and self.sweeps >= 1):
            raise ValueError(f"sweeps must be a whole number from 1 on, got {self.sweeps}")

    def __call__(
        self,
        gram: Float[Tensor, "*batch B B"],
        overlap: Float[Tensor, "*batch B"],
        advantages: Float[Tensor, "*batch B"],
    ) -> Float[Tensor, "*batch B"]:
        """All v_i at once, as rows of weights of the g_j; the overlaps do not matter."""
        tasks = gram * advantages.unsqueeze(-1) * advantages.unsqueeze(-2)  # <g_i, g_j>
        squares = tasks.diagonal(dim1=-2, dim2=-1)
        least = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        rows = least.expand(tasks.shape).clone()
        for j in [*range(gram.shape[-1])] * self.sweeps:
            along = (rows @ tasks[..., j, None]).squeeze(-1)  # <v_i, g_j> of each i
            square = squares[..., j, None]
            moved = torch.where(square > 0, along / torch.where(square > 0, square, 1.0), 0.0)
            rows[..., j] = torch.maximum(rows[..., j] - moved, least[:, j])
        return advantages * rows.sum(dim=-2)
