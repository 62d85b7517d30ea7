"""What is recorded at each optimizer step: one entry per metric. This file imports no torch, as the report reads it.

An entry says how the metric is measured, what a figure calls it and whether the closing table has a column for it.
Metrics that a tier's validation or the update itself returns have no function here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from proma_bench.tables import Table

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from proma_bench.learning.experience import Experience


class Step(NamedTuple):
    """One optimizer step, for measurement.

    Attributes:
        experience: the sequences that the step was made with.
        before: the policy's distributions in their rows before the step.
        after: the same after the step.
        initial: those of the policy that the run began with.
    """

    experience: Experience
    before: Distribution
    after: Distribution
    initial: Distribution


class Column(NamedTuple):
    """A column of the closing table.

    Attributes:
        heading: what stands above it.
        over_steps: the figure of a run: the metric at the last step, or its mean over the steps.
        digits: after the point.
    """

    heading: str
    over_steps: Literal["end", "mean"]
    digits: int = 3


@dataclass(frozen=True)
class Metric:
    """A number per optimizer step.

    Attributes:
        name: its key in ``metrics.jsonl``.
        label: what the axis of a figure says.
        measure: its value after a step; None for what validation and the update return themselves.
        column: its column in the closing table, if it has one.
        higher_is_better: which of two values a frontier takes.
        by_layer: whether it is an object with a number per parameter tensor instead.
    """

    name: str
    label: str
    measure: Callable[[Step], float] | None = None
    column: Column | None = None
    higher_is_better: bool = False
    by_layer: bool = False


METRICS: Table[Metric] = Table("metric")
"""All metrics by name."""

register_metric = METRICS.register
"""Add a metric; runs record it, and reports know it, from then on."""


def measured(step: Step) -> dict[str, float]:
    """The metrics that are measured by comparing distributions, by name."""
    return {name: metric.measure(step) for name, metric in METRICS.items() if metric.measure is not None}


def _entropy(step: Step) -> float:
    from proma_bench.learning.divergences import entropy

    return entropy(step.after, step.experience)


def _kl_local(step: Step) -> float:
    from proma_bench.learning.divergences import kl

    return kl(step.before, step.after, step.experience)


def _kl_global(step: Step) -> float:
    from proma_bench.learning.divergences import kl

    return kl(step.after, step.initial, step.experience)


for _metric in (
    Metric("step", "optimizer step"),
    Metric("score", "validation score (greedy)", column=Column("greedy score\nat the end", "end")),
    Metric("score_sampled", "validation score (sampled)", column=Column("sampled score\nat the end", "end")),
    Metric("score_lenient", "validation score (greedy, in any form)"),
    Metric("reward", "mean reward of the batch", column=Column("reward\nsteps' mean", "mean")),
    Metric(
        "kl_local", "local KL, before ‖ after a step (nats)", _kl_local,
        Column("local KL\nsteps' mean", "mean", digits=4),
    ),
    Metric("kl_global", "global KL, current ‖ initial (nats)", _kl_global, Column("global KL\nat the end", "end")),
    Metric("entropy", "entropy (nats)", _entropy, Column("entropy\nat the end", "end"), higher_is_better=True),
    Metric("grad_norm", "norm of the gradient"),
    Metric("removed_ratio", "share of the running gradient removed"),
    Metric("removed_by_layer", "share of the running gradient removed, per tensor", by_layer=True),
    Metric(
        "clamped", "share of projections whose clamp was active",
        column=Column("clamp active\nsteps' mean", "mean", digits=2),
    ),
    Metric("seconds", "seconds"),
    Metric("sequences", "sequences"),
    Metric("tokens", "tokens answered"),
    Metric("sampler_gap", "mean difference of the sampler's log-probs (nats per token)"),
    Metric("truncated", "share of validation episodes that the time limit ended"),
    Metric("empty", "empty answers"),
    Metric("cut", "answers cut off at the length limit"),
    Metric("overlong", "prompts that were too long"),
    Metric("unanswerable", "questions without a right answer"),
):  # fmt: skip
    register_metric(_metric)
