"""From the sequence gradients of a parameter to what a microbatch adds to its running gradient."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from proma_bench.backward.cost import GramMethod
from proma_bench.backward.factored import intra_gradient
from proma_bench.backward.factors import SequenceGrads, compute_dtype
from proma_bench.backward.layout import Layout
from proma_bench.backward.measure import Measured, Workspace, add_weighted, measure, plain_gradient
from proma_bench.backward.parameters import Parameters, is_watched
from proma_bench.backward.records import Records
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.methods import PROJECTION_METHODS
from proma_bench.projection.successive import Removals, square_growth, successive_removals


class Microbatch:
    """The microbatch whose backward pass is under way.

    Args:
        advantages: one per sequence.
        layout: which row belongs to which sequence.
        size: sequences in each of the virtual microbatches that it consists of; None is one microbatch.

    Attributes:
        finished: parameters that have received their gradient.
        pending: parameters whose running gradient still waits for it.

    Raises:
        ValueError: the size is below one.
    """

    def __init__(self, advantages: Tensor, layout: Layout, size: int | None) -> None:
        if size is not None and size < 1:
            raise ValueError(f"microbatch_size must be at least 1, got {size}")
        self.advantages, self.layout = advantages, layout
        self.size = min(size or advantages.shape[0], advantages.shape[0])
        self.finished: set[Tensor] = set()
        self.pending: list[tuple[Tensor, Measured]] = []


class Solver:
    """Projects the running gradients of one module's parameters.

    Attributes:
        records: what it did, where ``record`` asks for it.
        microbatches: how many there have been.
    """

    def __init__(
        self,
        parameters: Parameters,
        config: ProjectionConfig,
        unprojected: Collection[str],
        workspace_bytes: int | None,
        gram_method: GramMethod,
        record: bool,
    ) -> None:
        self.config, self.record = config, record
        self.records: list[Records] = []
        self.microbatches = 0
        self._parameters, self._unprojected, self._gram_method = parameters, unprojected, gram_method
        self._workspace = Workspace(workspace_bytes)

    def forget(self) -> None:
        """Forget what a backward pass has left behind that raised an error half-way."""
        self._workspace.used = 0

    def gradient(
        self, parameter: Tensor, uses: list[SequenceGrads], microbatch: Microbatch, *, in_place: bool
    ) -> Tensor | None:
        """What the microbatch adds to the parameter's running gradient.

        None where it will be added in place by `flush`, which is allowed where ``in_place`` says so.
        """
        dtype, shape = compute_dtype(parameter), parameter.shape or torch.Size([1])
        name = self._parameters.name(parameter)
        if parameter in microbatch.finished:
            raise RuntimeError(
                f"parameter {name!r} received its gradient in two parts, which happens when a module is shared between "
                "reentrant checkpoints, or after two backward passes in one microbatch; use one backward pass, and "
                "torch.utils.checkpoint with use_reentrant=False"
            )
        microbatch.finished.add(parameter)
        advantages = microbatch.advantages.to(parameter.device, dtype)
        if name in self._unprojected:
            return plain_gradient(uses, advantages, shape)
        if PROJECTION_METHODS[self.config.method].takes == "factors":
            return self._intra(name, uses, advantages, shape, microbatch.size)
        running = self._parameters.running(parameter)
        if running is None and microbatch.size == advantages.shape[0]:
            return plain_gradient(uses, advantages, shape)
        if not self._workspace.has_room((advantages.shape[0] + 1) * parameter.numel(), advantages):
            self.flush(microbatch)
        start = self._workspace.used
        running = None if running is None else running.reshape(shape)
        measured = measure(uses, running, shape, advantages, self._workspace, self._gram_method)
        if not in_place or is_watched(parameter):
            (corrected,) = self._corrected([(parameter, measured)], advantages, microbatch.size)
            gradient = torch.zeros(shape, dtype=dtype, device=parameter.device)
            add_weighted(measured, corrected, gradient)
            self._workspace.used = start
            return gradient
        microbatch.pending.append((parameter, measured))
        if measured.is_partly_kept:
            self.flush(microbatch)  # a large tensor: release its factors
        return None

    def _intra(self, name: str, uses: list[SequenceGrads], advantages: Tensor, shape: torch.Size, size: int) -> Tensor:
        found = intra_gradient(uses, advantages, shape, size, self.config)
        if found is None:
            return plain_gradient(uses, advantages, shape)
        if self.record:
            norms = found.removed_norm.unsqueeze(0), found.norm.unsqueeze(0)
            clamped = torch.zeros_like(norms[0], dtype=torch.bool)
            self.records.append(Records([name], ["intra"], self.microbatches, [False], *norms, clamped))
        return found.gradient

    def flush(self, microbatch: Microbatch) -> None:
        """Solve for all pending tensors of one type and place at once, and add to their running gradients in place."""
        groups: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Measured]]] = {}
        for parameter, measured in microbatch.pending:
            groups.setdefault((measured.gram.device, measured.gram.dtype), []).append((parameter, measured))
        for (device, dtype), group in groups.items():
            advantages = microbatch.advantages.to(device, dtype)
            corrected = self._corrected(group, advantages, microbatch.size)
            for (parameter, measured), weights in zip(group, corrected, strict=True):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
                add_weighted(measured, weights, parameter.grad.view(parameter.shape or (1,)))
        microbatch.pending.clear()
        self._workspace.used = 0

    def _corrected(self, group: list[tuple[Tensor, Measured]], advantages: Tensor, size: int) -> Tensor:
        """The corrected advantages [P, N] of P tensors."""
        gram = torch.stack([measured.gram for _, measured in group])
        overlap = torch.stack([measured.overlap for _, measured in group])
        removed = successive_removals(gram, overlap, advantages, size, self.config)
        if self.record:
            self._keep_records(group, removed, gram, advantages, size)
        return (advantages - removed.coefficients).to(advantages.dtype)

    def _keep_records(
        self, group: list[tuple[Tensor, Measured]], removed: Removals, gram: Tensor, advantages: Tensor, size: int
    ) -> None:
        running = [self._parameters.running(parameter) for parameter, _ in group]
        zero = gram.new_zeros(())
        norms = [zero if gradient is None else _norm(gradient, gram.dtype) for gradient in running]
        before = torch.stack(norms).double().unsqueeze(1)
        if removed.norm.shape[1] > 1:  # later virtual microbatches find what the earlier ones have left
            growth = square_growth(gram, advantages, removed, size)
            before = (before.square() + growth.cumsum(dim=1) - growth).clamp_min(0.0).sqrt()
        self.records.append(
            Records(
                [self._parameters.name(parameter) for parameter, _ in group],
                [measured.gram_method for _, measured in group],
                self.microbatches,
                [gradient is None for gradient in running],
                removed.norm,
                before,
                removed.clamped,
            )
        )


def _norm(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """In one kernel, unless the running gradient is of a wider type than the computation."""
    wide = torch.promote_types(gradient.dtype, dtype)
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=wide).to(dtype)
    return norm
