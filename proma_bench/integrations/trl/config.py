"""The settings of `PROMATrainer`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

from trl import GRPOConfig

from proma_bench.backward.uncovered import uncovered_setting
from proma_bench.integrations.rule import update_rule
from proma_bench.integrations.trl.versions import refuse_unknown_settings
from proma_bench.projection.config import ProjectionConfig, setting
from proma_bench.projection.methods import PROJECTION_METHODS
from proma_bench.projection.recursion import PassRule
from proma_bench.projection.updates import UpdateRule


@dataclass
class PROMAConfig(GRPOConfig):  # type: ignore[misc]  # without its package, Any
    """GRPOConfig, and how the running gradient is projected. The defaults of the projection are the paper's.

    ``projection`` is a method of `ProjectionConfig`, or the name of another update rule (``isopo``, for one) of
    `proma_bench.projection.rules`, with its defaults. ``uncovered`` is that of `Proma`.

    Raises:
        ValueError: a setting of GRPOConfig is newer than what PROMA was checked with, and is not the default.
    """

    projection: str = setting("projection")
    sweeps: int = setting("sweeps")
    max_removed: float | None = setting("max_removed")
    shrinkage: float = setting("shrinkage")
    projection_rank: int = setting("projection_rank")
    projection_microbatch: int = field(
        default=8,
        metadata={"help": "Sequences in each of PROMA's microbatches, at most; the device's batch is split into them."},
    )
    local_kl_every: int = field(
        default=1, metadata={"help": "Measure the local KL in every so many optimizer steps; 0 never does."}
    )
    uncovered: Literal["refuse", "autograd"] = uncovered_setting()

    def __post_init__(self) -> None:
        refuse_unknown_settings(self, GRPOConfig)
        super().__post_init__()

    @property
    def update_rule(self) -> UpdateRule:
        """What ``projection`` names, with these settings.

        Raises:
            ValueError: a value is out of range, or would have no effect.
        """
        return update_rule(self)


def microbatch_size(args: PROMAConfig, rule: UpdateRule) -> int:
    """Sequences in a microbatch: ``projection_microbatch`` or the device's batch, or half of that batch.

    Half where a step would be a single microbatch and the rule then does nothing; with a warning.

    Raises:
        ValueError: a step has a single sequence, or the setting is no whole number of at least 1.
    """
    wanted, batch = args.projection_microbatch, int(args.per_device_train_batch_size)
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise ValueError(f"projection_microbatch must be a whole number of at least 1, got {wanted!r}")
    size = min(wanted, batch)
    others: Any = args.gradient_accumulation_steps > 1 and not isinstance(rule, PassRule)
    if size < batch or others or not _acts_between_microbatches(rule):
        return size
    whose = f"per_device_train_batch_size={batch} and gradient_accumulation_steps={args.gradient_accumulation_steps}"
    if batch == 1:
        raise ValueError(
            f"with {whose} a backward pass has a single sequence, and PROMA nothing to project: it acts between the "
            "microbatches of an optimizer step; set per_device_train_batch_size to 16 or more"
        )
    half = (batch + 1) // 2
    warnings.warn(
        f"with {whose} an optimizer step would be a single microbatch of projection_microbatch={wanted}, and PROMA, "
        f"which acts between microbatches, would do nothing. Microbatches have {half} sequences instead. A larger "
        "batch gives it more to do: the paper's steps have 64 of 8",
        stacklevel=3,
    )
    return half


def _acts_between_microbatches(rule: UpdateRule) -> bool:
    """Whether a step of one microbatch is no use to a rule; plain accumulation, if asked for, has no use of more."""
    if isinstance(rule, ProjectionConfig):
        is_plain = rule.shrinkage == 0 or rule.max_removed == 0
        return not is_plain and PROJECTION_METHODS[rule.method].takes != "factors"
    return rule.plain_first or isinstance(rule, PassRule)
