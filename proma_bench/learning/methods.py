"""The table of the compared methods. It does not import torch, because the command line and the report read it."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from proma_bench.projection.config import SETTINGS
from proma_bench.tables import Table

if TYPE_CHECKING:
    from proma_bench.learning.advantages import Advantages
    from proma_bench.learning.objectives import Objective


class Style(NamedTuple):
    """How a method is drawn. The colours are those of Okabe and Ito, which colour-blind readers can distinguish.

    Attributes:
        title: the method's title in tables and legends.
        colour: the colour of its lines, as a hexadecimal code.
        dashes: the line style, as matplotlib takes it.
        marker: the marker, as matplotlib takes it.
    """

    title: str
    colour: str
    dashes: str | tuple[int, tuple[float, ...]]
    marker: str


@dataclass(frozen=True)
class Method:
    """A method: its objective and its advantages.

    Attributes:
        name: its name in the option ``--method`` and in results.
        style: its title in tables, and how it is drawn.
        objective: the function whose gradient the method follows (see `proma_bench.learning.objectives`), or the place
            to import it from, as ``"package.module:function"``.
        advantages: the function from rewards to advantages (see `proma_bench.learning.advantages`), or the place to
            import it from, in the same form.
        settings: names of the settings that no other method reads. Runs of different methods can be compared even if
            these settings differ.
        projects: whether the running gradient is projected. The objective is then the log-probabilities themselves;
            the advantages enter in the backward pass.
    """

    name: str
    style: Style
    objective: str | Objective
    advantages: str | Advantages = "proma_bench.learning.advantages:group_advantages"
    settings: frozenset[str] = frozenset()
    projects: bool = False

    @cached_property
    def objective_function(self) -> Objective:
        """The objective as a function; it is imported on first use."""
        found: Objective = pkgutil.resolve_name(self.objective) if isinstance(self.objective, str) else self.objective
        return found

    @cached_property
    def advantages_function(self) -> Advantages:
        """The advantages as a function; it is imported on first use."""
        reference = self.advantages
        found: Advantages = pkgutil.resolve_name(reference) if isinstance(reference, str) else reference
        return found


METHODS: Table[Method] = Table("method")
"""All methods by name, in the order of tables and legends."""

register_method = METHODS.register
"""Add a method to the table. The command line, the ladder, tables and figures include it from then on."""


register_method(
    Method("reinforce", Style("REINFORCE", "#0072B2", (0, (1, 1)), "o"), "proma_bench.learning.objectives:reinforce")
)
register_method(
    Method(
        "grpo",
        Style("GRPO", "#D55E00", (0, (4, 1.5)), "s"),
        "proma_bench.learning.objectives:grpo",
        settings=frozenset({"clip"}),
    )
)
register_method(
    Method(
        "proma",
        Style("PROMA", "#009E73", "solid", "^"),
        "proma_bench.learning.objectives:proma",
        settings=frozenset({*SETTINGS, "uncovered"}),
        projects=True,
    )
)
