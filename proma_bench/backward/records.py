"""What the projection did, kept as tensors while it runs and unpacked on request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class ProjectionRecord(NamedTuple):
    """What the projection did to one parameter tensor in one microbatch.

    Attributes:
        parameter: its name in the module.
        microbatch: counted from 0 since the last ``clear_stats``.
        removed_norm: norm of what was taken out of the running gradient (intra: of the microbatch's own).
        removed_ratio: the same over the norm of what it was taken out of.
        clamped: whether the norm clamp was active.
        gram_method: how it was computed (`cost`).
    """

    parameter: str
    microbatch: int
    removed_norm: float
    removed_ratio: float
    clamped: bool
    gram_method: str


class Records(NamedTuple):
    """What M successive microbatches did to P parameter tensors; as tensors, so that nothing waits for a GPU.

    Attributes:
        plain_first: whether the first of them found no running gradient and projected nothing.
        removed_norm: norm of what was removed, [P, M].
        norm: norm of what was projected, [P, M].
        clamped: whether the clamp was active, [P, M].
    """

    parameters: list[str]
    gram_methods: list[str]
    first_microbatch: int
    plain_first: list[bool]
    removed_norm: Tensor
    norm: Tensor
    clamped: Tensor

    def numbers(self) -> Float[Tensor, "3 PM"]:
        """What a record has beside names: the norm, the ratio, and whether the clamp was active."""
        ratios = torch.where(self.norm > 0, self.removed_norm / self.norm, 0.0)
        return torch.stack([self.removed_norm, ratios, self.clamped.to(ratios.dtype)]).flatten(1)


def unpacked(records: Sequence[Records]) -> Iterator[ProjectionRecord]:
    """One record per tensor and microbatch; all numbers come from the device at once."""
    if not records:
        return
    parts = [record.numbers() for record in records]
    columns = torch.cat([part.to(parts[0].device) for part in parts], dim=1).tolist()
    rows = zip(*columns, strict=True)
    for record in records:
        for tensor, name in enumerate(record.parameters):
            for number, (removed, ratio, clamped) in enumerate(islice(rows, record.norm.shape[1])):
                if number > 0 or not record.plain_first[tensor]:
                    microbatch, method = record.first_microbatch + number, record.gram_methods[tensor]
                    yield ProjectionRecord(name, microbatch, removed, ratio, bool(clamped), method)


def averages(records: Sequence[ProjectionRecord]) -> dict[str, Any]:
    """What the projection did, over parameter tensors and microbatches.

    Args:
        records: from `Proma.stats`.

    Returns:
        ``removed_ratio``: the mean share of the running gradient that was removed. ``removed_by_layer``: the same for
        each parameter tensor, averaged over microbatches. ``clamped``: how often the clamp was active, from 0 to 1.
        All are zero, or empty, where nothing was projected.
    """
    shares: dict[str, list[float]] = {}
    for record in records:
        shares.setdefault(record.parameter, []).append(record.removed_ratio)
    count = max(1, len(records))  # a step of one microbatch has nothing to project
    return {
        "removed_ratio": sum(record.removed_ratio for record in records) / count,
        "removed_by_layer": {name: sum(values) / len(values) for name, values in sorted(shares.items())},
        "clamped": sum(record.clamped for record in records) / count,
    }
