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
    from proma_bench.learning.natural import Step
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
        loss_aggregation: how rows are weighted, where that is part of the method; None is as the setting says.
        step: what moves the policy in place of the optimizer (see `proma_bench.learning.natural`), or the place to
            import it from; None is the optimizer.
    """

    name: str
    style: Style
    objective: str | Objective
    advantages: str | Advantages = "proma_bench.learning.advantages:group_advantages"
    settings: frozenset[str] = frozenset()
    projects: bool = False
    loss_aggregation: str | None = None
    step: str | Step | None = None

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

    @cached_property
    def step_function(self) -> Step | None:
        """The step as a function; it is imported on first use."""
        found: Step | None = pkgutil.resolve_name(self.step) if isinstance(self.step, str) else self.step
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
        settings=frozenset({"clip", "dual_clip"}),
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


_OBJECTIVES, _ADVANTAGES = "proma_bench.learning.objectives", "proma_bench.learning.advantages"

for _method in (
    Method(
        "dr-grpo", Style("Dr. GRPO", "#8C510A", (0, (6, 2)), "D"), f"{_OBJECTIVES}:grpo",
        f"{_ADVANTAGES}:centred_advantages", frozenset({"clip", "dual_clip"}), loss_aggregation="sum",
    ),
    Method(
        "dapo", Style("DAPO (clip-higher)", "#E69F00", (0, (4, 1, 1, 1)), "v"), f"{_OBJECTIVES}:dapo",
        settings=frozenset({"clip", "clip_high"}),
    ),
    Method(
        "cispo", Style("CISPO", "#CC79A7", (0, (3, 1)), "P"), f"{_OBJECTIVES}:cispo",
        settings=frozenset({"clip_high"}),
    ),
    Method(
        "gspo", Style("GSPO", "#56B4E9", (0, (5, 1, 1, 1, 1, 1)), "X"), f"{_OBJECTIVES}:gspo",
        settings=frozenset({"gspo_low", "gspo_high"}), loss_aggregation="sequence-mean",
    ),
    Method(
        "rloo", Style("RLOO", "#6A51A3", (0, (1, 2)), "h"), f"{_OBJECTIVES}:reinforce",
        f"{_ADVANTAGES}:leave_one_out_advantages", loss_aggregation="sum",
    ),
    Method(
        "ppo-kl", Style("PPO-KL", "#B2182B", (0, (2, 1)), "p"), f"{_OBJECTIVES}:ppo_kl",
        settings=frozenset({"kl_penalty"}),
    ),
    Method(
        "trpo", Style("TRPO", "#000000", (0, (8, 2)), "*"), f"{_OBJECTIVES}:surrogate",
        step="proma_bench.learning.natural:natural_step",
    ),
):  # fmt: skip
    register_method(_method)
