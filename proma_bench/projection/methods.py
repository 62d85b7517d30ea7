"""The table of projection methods: one entry per method. It imports no torch, so that configurations can read it."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from proma_bench.tables import Table

if TYPE_CHECKING:
    from proma_bench.projection.solve import Solver


@dataclass(frozen=True)
class ProjectionMethod:
    """One way to find the component that the projection removes.

    Attributes:
        name: what `ProjectionConfig.method` and the option ``--projection`` call it.
        description: one line for help texts and documentation.
        solver: from Gram matrix and overlaps to weights: a `proma_bench.projection.solve.Solver`, or where to import
            one from, as ``"package.module:NAME"``. None for a method that the Gram matrix alone cannot serve.
        takes: what the method needs: the Gram matrix, the sequence gradients written out, or their factors.
        is_exact: whether the result is the orthogonal projection itself.
    """

    name: str
    description: str
    solver: str | Solver | None = None
    takes: Literal["gram", "gradients", "factors"] = "gram"
    is_exact: bool = False

    @cached_property
    def solve(self) -> Solver:
        """The solver itself, imported on first use."""
        solver = pkgutil.resolve_name(self.solver) if isinstance(self.solver, str) else self.solver
        assert solver is not None, f"{self.name} is not solved by the Gram matrix"
        found: Solver = solver
        return found


PROJECTION_METHODS: Table[ProjectionMethod] = Table("projection method")
"""All projection methods by name, the built-in ones first."""

register_projection_method = PROJECTION_METHODS.register
"""Add a projection method; `ProjectionConfig`, the command line, ablations and trainers know it from then on."""


for _method in (
    ProjectionMethod(
        "exact", "the orthogonal projection, by the pseudo-inverse of the Gram matrix",
        "proma_bench.projection.solve:EXACT", is_exact=True,
    ),
    ProjectionMethod(
        "qr", "the same projection by QR of the stacked gradients, the literal and expensive way",
        takes="gradients", is_exact=True,
    ),
    ProjectionMethod(
        "iterative", "subtract the component along one normalised sequence gradient after another (the paper's choice)",
        "proma_bench.projection.solve:ITERATIVE",
    ),
    ProjectionMethod(
        "ridge", "a regularised inverse, the non-quick path of the author's published code",
        "proma_bench.projection.solve:RIDGE",
    ),
    ProjectionMethod(
        "intra", "take the dominant subspaces out of each microbatch's own gradient; linear layers only",
        takes="factors",
    ),
):  # fmt: skip
    register_projection_method(_method)
