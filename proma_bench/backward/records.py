"""What the projection did, kept as tensors while it runs and unpacked on request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class ProjectionRecord(NamedTuple):
    """What the projection did to one parameter tensor in one microbatch.

    Attributes:
        parameter: its name in the module.
        microbatch: counted from 0 since the last ``clear_stats``.
        removed_norm: norm of what was taken out of the running gradient (intra: of the microbatch's own); for any
            update rule the norm of its difference from plain accumulation.
        removed_ratio: the same over the norm of what it was taken out of; for a rule that changes the first microbatch
            of a step as well, that is the result of plain accumulation.
        clamped: whether the norm clamp, or another limit of the rule, was active.
        gram_method: how it was computed (`cost`).
        observed: what else the update rule has recorded, by name; see `proma_bench.projection.rules.observe`.
    """

    parameter: str
    microbatch: int
    removed_norm: float
    removed_ratio: float
    clamped: bool
    gram_method: str
    observed: Mapping[str, float | list[float]] = MappingProxyType({})


class Records(NamedTuple):
    """What M successive microbatches did to P parameter tensors; as tensors, so that nothing waits for a GPU.

    Attributes:
        plain_first: whether the first of them found no running gradient and projected nothing.
        removed_norm: norm of what was removed, [P, M].
        norm: norm of what was projected, [P, M].
        clamped: whether the clamp was active, [P, M].
        observed: of each of the M microbatches, numbers [P] or rows [P, n] by name; nothing if it is empty.
    """

    parameters: list[str]
    gram_methods: list[str]
    first_microbatch: int
    plain_first: list[bool]
    removed_norm: Tensor
    norm: Tensor
    clamped: Tensor
    observed: Sequence[dict[str, Tensor]] = ()

    def numbers(self) -> Float[Tensor, "3 PM"]:
        """What a record has beside names: the norm, the ratio, and whether the clamp was active."""
        ratios = torch.where(self.norm > 0, self.removed_norm / self.norm, 0.0)
        return torch.stack([self.removed_norm, ratios, self.clamped.to(ratios.dtype)]).flatten(1)


def unpacked(records: Sequence[Records]) -> Iterator[ProjectionRecord]:
    """One record per tensor and microbatch; all numbers but what a rule observed come from the device at once."""
    if not records:
        return
    parts = [record.numbers() for record in records]
    columns = torch.cat([part.to(parts[0].device) for part in parts], dim=1).tolist()
    rows = zip(*columns, strict=True)
    for record in records:
        observed = [{name: values.tolist() for name, values in one.items()} for one in record.observed]
        for tensor, name in enumerate(record.parameters):
            for number, (removed, ratio, clamped) in enumerate(islice(rows, record.norm.shape[1])):
                if number > 0 or not record.plain_first[tensor]:
                    seen = {key: values[tensor] for key, values in observed[number].items()} if observed else {}
                    microbatch, method = record.first_microbatch + number, record.gram_methods[tensor]
                    yield ProjectionRecord(name, microbatch, removed, ratio, bool(clamped), method, seen)


def averages(records: Sequence[ProjectionRecord]) -> dict[str, Any]:
    """What the projection did, over parameter tensors and microbatches.

    Args:
        records: from `Proma.stats`.

    Returns:
        ``removed_ratio``: the mean share of the running gradient that was removed. ``removed_by_layer``: the same for
        each parameter tensor, averaged over microbatches. ``clamped``: how often the clamp was active, from 0 to 1.
        All are zero, or empty, where nothing was projected. Where the rule has observed them, also the means of
        ``effective_rank`` and ``conflicts``, and ``noise_scale``: the mean noise over the mean signal, None where the
        signal is lost in the noise; each over all tensors, and under ``NAME_by_layer`` for each of them.
    """
    shares: dict[str, list[float]] = {}
    for record in records:
        shares.setdefault(record.parameter, []).append(record.removed_ratio)
    count = max(1, len(records))  # a step of one microbatch has nothing to project
    return {
        "removed_ratio": sum(record.removed_ratio for record in records) / count,
        "removed_by_layer": {name: sum(values) / len(values) for name, values in sorted(shares.items())},
        "clamped": sum(record.clamped for record in records) / count,
        **_observed(records),
    }


def _observed(records: Sequence[ProjectionRecord]) -> dict[str, Any]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record.observed.keys() >= _OBSERVED:
            found.setdefault(record.parameter, []).append(record.observed)
    if not found:
        return {}
    by_layer = {parameter: _gram_statistics(observed) for parameter, observed in sorted(found.items())}
    overall = _gram_statistics([one for observed in found.values() for one in observed])
    layers = {
        f"{name}_by_layer": {parameter: statistics[name] for parameter, statistics in by_layer.items()}
        for name in overall
    }
    return overall | layers


_OBSERVED = {"effective_rank", "conflicts", "noise", "signal"}


def _gram_statistics(observed: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    rank, conflicts, noise, signal = (
        sum(one[name] for one in observed) / len(observed)
        for name in ("effective_rank", "conflicts", "noise", "signal")
    )
    return {"effective_rank": rank, "conflicts": conflicts, "noise_scale": noise / signal if signal > 0 else None}
