"""The table of the compared methods. It does not import torch, because the command line and the report read it."""

from __future__ import annotations

import pkgutil
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from proma_bench.errors import UsageError, require_known
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
        projects: whether the running gradient is projected, or another update rule is applied. The objective is then
            the log-probabilities themselves; the advantages enter in the backward pass.
        rule: its update rule: a name in `proma_bench.projection.rules`, or ``FILE.py:NAME``; None is the projection.
    """

    name: str
    style: Style
    objective: str | Objective
    advantages: str | Advantages = "proma_bench.learning.advantages:group_advantages"
    settings: frozenset[str] = frozenset()
    projects: bool = False
    rule: str | None = None

    @property
    def folder(self) -> str:
        """The name of its directory among the runs: its own name, without the path to its file."""
        return re.sub(r"[^\w.-]+", "-", self.name.rpartition("/")[2])

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
"""All methods that are compared unless told otherwise, by name, in the order of tables and legends."""

register_method = METHODS.register
"""Add a method to the table. The command line, the ladder, tables and figures include it from then on."""

RULE_METHODS: Table[Method] = Table("method")
"""The other update rules of `proma_bench.projection.rules` as methods, which run where they are asked for by name."""

LONGEST_NAME = 120
"""Of a method in the files of a run."""


def all_methods() -> dict[str, Method]:
    """The methods of both tables."""
    return METHODS | RULE_METHODS


def method_named(name: str) -> Method:
    """The method of this name: one of the tables, or for ``FILE.py:NAME`` an update rule in a file.

    The file is not read yet; see `proma_bench.learning.rules`.

    Raises:
        UsageError: there is no such method.
    """
    path, _, function = name.rpartition(":")
    known = all_methods()
    if name in known or not path.endswith(".py"):
        require_known("method", name, known)
        return known[name]
    if not (function.isidentifier() and name.isprintable() and len(name) <= LONGEST_NAME):
        raise UsageError(
            f"a method in a file is named FILE.py:NAME, in at most {LONGEST_NAME} printable characters, got {name!r}"
        )
    return _rule_method(name, Style(function, "#999999", "dashdot", "x"))


def _rule_method(name: str, style: Style, settings: frozenset[str] = frozenset()) -> Method:
    own = frozenset({"rule_settings", "uncovered"}) | settings
    objective = "proma_bench.learning.objectives:proma"
    return Method(name, style, objective, settings=own, projects=True, rule=name)


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
for _rule in (
    _rule_method("isopo", Style("ISOPO", "#E69F00", "solid", "v")),
    _rule_method("isopo-noninteracting", Style("ISOPO, non-interacting", "#E69F00", "dashed", "<")),
    _rule_method("isopo-averaged", Style("ISOPO, averaged", "#E69F00", "dotted", "d")),
    _rule_method("clip", Style("clipped norms", "#56B4E9", "solid", ">")),
    _rule_method("pcgrad", Style("PCGrad", "#56B4E9", "dashed", "p")),
    _rule_method("shrink", Style("shrinking", "#000000", "dotted", "*"), frozenset(SETTINGS)),
    _rule_method("observe", Style("REINFORCE, observed", "#0072B2", "dashed", "h")),
):
    RULE_METHODS.register(_rule)
