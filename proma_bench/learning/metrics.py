"""The table of metrics, which are recorded at each optimizer step. It imports no torch, because the report reads it.

An entry says how the metric is measured, its label in figures, and its column in the closing table, if it has one.
Metrics that a tier's validation or the optimizer step returns have no function here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from proma_bench.tables import Table

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from proma_bench.learning.experience import Experience


class Unseen(NamedTuple):
    """Sequences of the same batch that an optimizer step does not learn from; other steps on the batch do.

    Attributes:
        experience: the sequences.
        before: the policy's distributions in their rows, before the step.
        after: the same after the step.
    """

    experience: Experience
    before: Distribution
    after: Distribution


class Step(NamedTuple):
    """One optimizer step, for measurement.

    Attributes:
        experience: the sequences of the step.
        before: the policy's distributions in the rows of these sequences, before the step.
        after: the same after the step.
        initial: the same for the initial policy of the run.
        unseen: others of the batch; None where a batch is one step.
    """

    experience: Experience
    before: Distribution
    after: Distribution
    initial: Distribution
    unseen: Unseen | None = None


class Column(NamedTuple):
    """A column of the closing table.

    Attributes:
        heading: the text above the column.
        over_steps: how a run's value is computed: the metric at the last step, or its mean over the steps.
        digits: digits after the decimal point.
    """

    heading: str
    over_steps: Literal["end", "mean"]
    digits: int = 3


@dataclass(frozen=True)
class Metric:
    """A number per optimizer step.

    Attributes:
        name: its key in ``metrics.jsonl``.
        label: the label of its axis in figures.
        measure: the function that computes it after a step; None for metrics that validation or the optimizer step
            returns.
        column: its column in the closing table, if it has one.
        higher_is_better: whether a frontier takes the higher of two values; otherwise it takes the lower one.
        by_layer: whether it has one number per parameter tensor, by name, instead of a single number.
    """

    name: str
    label: str
    measure: Callable[[Step], float | None] | None = None
    column: Column | None = None
    higher_is_better: bool = False
    by_layer: bool = False


METRICS: Table[Metric] = Table("metric")
"""All metrics by name."""

register_metric = METRICS.register
"""Add a metric to the table. Runs record it, and reports show it, from then on."""


def measured(step: Step) -> dict[str, float | None]:
    """Measure all metrics that have a function.

    Args:
        step: the optimizer step.

    Returns:
        The values by name.
    """
    return {name: metric.measure(step) for name, metric in METRICS.items() if metric.measure is not None}


def _entropy(step: Step) -> float:
    from proma_bench.learning.divergences import entropy

    return entropy(step.after, step.experience)


def _kl_local(step: Step) -> float:
    from proma_bench.learning.divergences import kl

    return kl(step.before, step.after, step.experience)


def _kl_local_unseen(step: Step) -> float | None:
    from proma_bench.learning.divergences import kl

    return None if step.unseen is None else kl(step.unseen.before, step.unseen.after, step.unseen.experience)


def _kl_global(step: Step) -> float:
    from proma_bench.learning.divergences import kl

    return kl(step.after, step.initial, step.experience)


for _metric in (
    Metric("step", "optimizer step"),
    Metric(
        "score", "validation score (greedy)", column=Column("greedy score\nat the end", "end"), higher_is_better=True
    ),
    Metric(
        "score_sampled", "validation score (sampled)",
        column=Column("sampled score\nat the end", "end"), higher_is_better=True,
    ),
    Metric("score_lenient", "validation score (greedy, in any form)"),
    Metric("reward", "mean reward of the batch", column=Column("reward\nsteps' mean", "mean")),
    Metric(
        "kl_local", "local KL, before ‖ after a step (nats)", _kl_local,
        Column("local KL\nsteps' mean", "mean", digits=4),
    ),
    Metric("kl_local_unseen", "local KL on the other sequences of the batch (nats)", _kl_local_unseen),
    Metric("kl_global", "global KL, current ‖ initial (nats)", _kl_global, Column("global KL\nat the end", "end")),
    Metric("entropy", "entropy (nats)", _entropy, Column("entropy\nat the end", "end"), higher_is_better=True),
    Metric("grad_norm", "norm of the gradient"),
    Metric("removed_ratio", "share of the running gradient removed"),
    Metric("removed_by_layer", "share of the running gradient removed, per tensor", by_layer=True),
    Metric(
        "clamped", "share of projections whose clamp was active",
        column=Column("clamp active\nsteps' mean", "mean", digits=2),
    ),
    Metric("effective_rank", "effective rank of the Gram matrix"),
    Metric("conflicts", "share of pairs of sequences in conflict"),
    Metric("noise_scale", "gradient noise scale (sequences)"),
    Metric("effective_rank_by_layer", "effective rank of the Gram matrix, per tensor", by_layer=True),
    Metric("conflicts_by_layer", "share of pairs of sequences in conflict, per tensor", by_layer=True),
    Metric("noise_scale_by_layer", "gradient noise scale (sequences), per tensor", by_layer=True),
    Metric("seconds", "seconds"),
    Metric("update_seconds", "seconds of the update alone"),
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
