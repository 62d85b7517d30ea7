"""The table of the compared methods. It does not import torch, because the command line and the report read it."""

from __future__ import annotations

import pkgutil
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

from proma_bench import named
from proma_bench.errors import UsageError, require_known
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
        projects: whether the running gradient is projected, or another update rule is applied. The objective is then
            the log-probabilities themselves; the advantages enter in the backward pass.
        rule: its update rule: a name in `proma_bench.projection.rules`, or one as in `proma_bench.named`; None is the
            projection.
        loss_aggregation: how rows are weighted, where that is part of the method; None is as the setting says.
        step: what moves the policy in place of the optimizer (see `proma_bench.learning.natural`), or the place to
            import it from; None is the optimizer.
        divergence: how the divergence from the policy that has sampled is penalised, if it is: ``"sampled"``, estimated
            within the objective, or ``"exact"``, from whole distributions, times ``kl_penalty``. Such a method moves
            the policy also where all advantages are zero.
        formula: the objective of a row, or the update rule's coefficients, in plain text.
        source: the publication, and the equation or section in it.
    """

    name: str
    style: Style
    objective: str | Objective
    advantages: str | Advantages = "proma_bench.learning.advantages:group_advantages"
    settings: frozenset[str] = frozenset()
    projects: bool = False
    rule: str | None = None
    loss_aggregation: str | None = None
    step: str | Step | None = None
    divergence: Literal["sampled", "exact"] | None = None
    formula: str = ""
    source: str = ""

    @property
    def needs_distributions(self) -> bool:
        """Whether it works only on policies that keep whole distributions while they are trained."""
        return self.step is not None or self.divergence == "exact"

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

    @cached_property
    def step_function(self) -> Step | None:
        """The step as a function; it is imported on first use."""
        found: Step | None = pkgutil.resolve_name(self.step) if isinstance(self.step, str) else self.step
        return found


METHODS: Table[Method] = Table("method")
"""All methods that are compared unless told otherwise, by name, in the order of tables and legends."""

register_method = METHODS.register
"""Add a method to the table. The command line, the ladder, tables and figures include it from then on."""

OTHER_METHODS: Table[Method] = Table("method")
"""Other update rules and objectives, which run where they are asked for by name."""

LONGEST_NAME = 120
"""Of a method in the files of a run."""


def all_methods() -> dict[str, Method]:
    """The methods of both tables."""
    return METHODS | OTHER_METHODS


def method_named(name: str) -> Method:
    """The method of this name: one of the tables, or for ``FILE.py:NAME`` or ``PACKAGE.MODULE:NAME`` an update rule.

    Nothing is imported yet; see `proma_bench.learning.rules`.

    Raises:
        UsageError: there is no such method.
    """
    known = all_methods()
    if name in known or ":" not in name:
        require_known("method", name, known)
        return known[name]
    parsed = named.parse(name)
    if parsed is None or len(name) > LONGEST_NAME:
        raise UsageError(
            f"an update rule of your own is named {named.FORM}, in at most {LONGEST_NAME} printable characters, "
            f"got {name!r}"
        )
    return _rule_method(name, Style(parsed[1], "#999999", "dashdot", "x"))


def _rule_method(
    name: str, style: Style, formula: str = "", source: str = "", settings: frozenset[str] = frozenset()
) -> Method:
    own = frozenset({"rule_settings", "uncovered"}) | settings
    objective = "proma_bench.learning.objectives:proma"
    return Method(name, style, objective, settings=own, projects=True, rule=name, formula=formula, source=source)


register_method(
    Method(
        "reinforce",
        Style("REINFORCE", "#0072B2", (0, (1, 1)), "o"),
        "proma_bench.learning.objectives:reinforce",
        formula="a log p",
        source="Williams, 1992",
    )
)
register_method(
    Method(
        "grpo",
        Style("GRPO", "#D55E00", (0, (4, 1.5)), "s"),
        "proma_bench.learning.objectives:grpo",
        settings=frozenset({"clip", "dual_clip"}),
        formula="min(r a, clip(r) a)",
        source="arXiv 2402.03300, section 4.1",
    )
)
register_method(
    Method(
        "proma",
        Style("PROMA", "#009E73", "solid", "^"),
        "proma_bench.learning.objectives:proma",
        settings=frozenset({*SETTINGS, "uncovered"}),
        projects=True,
        formula="u = a − ρσ w, with w by one of the projections",
        source="arXiv 2601.10498, section 2",
    )
)

for _rule in (
    _rule_method(
        "isopo", Style("ISOPO", "#E69F00", "solid", "v"),
        "u = λ (K + λI)⁻¹ a, λ a multiple of the mean eigenvalue of K", "arXiv 2512.23353, interacting form",
    ),
    _rule_method(
        "isopo-noninteracting", Style("ISOPO, non-interacting", "#E69F00", "dashed", "<"),
        "u_i = a_i / (‖S_i‖² + λ)^(p/2), λ a multiple of the mean squared norm",
        "arXiv 2512.23353, non-interacting form",
    ),
    _rule_method(
        "isopo-averaged", Style("ISOPO, averaged", "#E69F00", "dotted", "d"),
        "as ISOPO, with a moving average over optimizer steps in λ", "the author's code of arXiv 2512.23353",
    ),
    _rule_method(
        "clip", Style("clipped norms", "#56B4E9", "solid", ">"),
        "u_i = a_i min(1, C / ‖S_i‖)", "per-sequence clipping, arXiv 1607.00133 without its noise",
    ),
    _rule_method(
        "pcgrad", Style("PCGrad", "#56B4E9", "dashed", "p"),
        "gradients that conflict are projected on each other's complement, in order", "arXiv 2001.06782, algorithm 1",
    ),
    _rule_method(
        "upgrad", Style("UPGrad", "#56B4E9", "dotted", "8"),
        "each gradient is moved as little as it takes to be in conflict with none", "arXiv 2406.16232, section 3",
    ),
    _rule_method(
        "shrink", Style("shrinking", "#000000", "dotted", "*"),
        "u = a, and κ = 1 − r/‖A‖ with the norm r that PROMA removes",
        "a control: as much is removed, in another direction", frozenset(SETTINGS),
    ),
    _rule_method(
        "elsewhere", Style("projected elsewhere", "#000000", "dashdot", "X"),
        "PROMA with the span of mixtures of all sequences of the step",
        "a control: the span is not the microbatch's own", frozenset(SETTINGS),
    ),
    _rule_method(
        "observe", Style("REINFORCE, observed", "#0072B2", "dashed", "h"),
        "u = a; records norms, effective rank, conflicts and the gradient noise scale",
        "arXiv 1812.06162 for the noise scale",
    ),
):  # fmt: skip
    OTHER_METHODS.register(_rule)

_OBJECTIVES, _ADVANTAGES = "proma_bench.learning.objectives", "proma_bench.learning.advantages"

for _method in (
    Method(
        "dr-grpo", Style("Dr. GRPO", "#8C510A", (0, (6, 2)), "D"), f"{_OBJECTIVES}:grpo",
        f"{_ADVANTAGES}:centred_advantages", frozenset({"clip", "dual_clip"}), loss_aggregation="sum",
        formula="min(r a, clip(r) a)",
        source="arXiv 2503.20783",
    ),
    Method(
        "dapo", Style("DAPO (clip-higher)", "#A6761D", (0, (4, 1, 1, 1)), "v"), f"{_OBJECTIVES}:dapo",
        settings=frozenset({"clip", "clip_high"}),
        formula="min(r a, clip(r) a), with --clip-high above",
        source="arXiv 2503.14476, eq. 10",
    ),
    Method(
        "cispo", Style("CISPO", "#CC79A7", (0, (3, 1)), "P"), f"{_OBJECTIVES}:cispo",
        settings=frozenset({"clip_high"}),
        formula="constant min(r, 1 + --clip-high) × a log p",
        source="arXiv 2506.13585, eq. 4, 5",
    ),
    Method(
        "gspo", Style("GSPO", "#66A61E", (0, (5, 1, 1, 1, 1, 1)), "X"), f"{_OBJECTIVES}:gspo",
        settings=frozenset({"gspo_low", "gspo_high"}), loss_aggregation="sequence-mean",
        formula="min(s a, clip(s) a), s = (p / p_old of the sequence)^(1 / length), "
        "within 1 − --gspo-low and 1 + --gspo-high",
        source="arXiv 2507.18071, eq. 5–7",
    ),
    Method(
        "rloo", Style("RLOO", "#6A51A3", (0, (1, 2)), "h"), f"{_OBJECTIVES}:reinforce",
        f"{_ADVANTAGES}:leave_one_out_advantages", loss_aggregation="sum",
        formula="a log p",
        source="arXiv 2402.14740, eq. 7",
    ),
    Method(
        "ppo-kl", Style("PPO-KL", "#B2182B", (0, (2, 1)), "p"), f"{_OBJECTIVES}:ppo_kl",
        settings=frozenset({"kl_penalty"}), divergence="sampled",
        formula="r a − --kl-penalty × ((r − 1) − log r)",
        source="arXiv 1707.06347, eq. 8",
    ),
    Method(
        "ppo-kl-exact", Style("PPO-KL, exact", "#B2182B", (0, (6, 1)), "H"), f"{_OBJECTIVES}:surrogate",
        settings=frozenset({"kl_penalty"}), divergence="exact",
        formula="r a − --kl-penalty × KL(old ‖ new)",
        source="arXiv 1707.06347, eq. 8",
    ),
    Method(
        "trpo", Style("TRPO", "#525252", (0, (8, 2)), "*"), f"{_OBJECTIVES}:surrogate",
        step="proma_bench.learning.natural:natural_step",
        formula="r a, in a trust region",
        source="arXiv 1502.05477, eq. 14",
    ),
):  # fmt: skip
    OTHER_METHODS.register(_method)
