"""From the sequence gradients of a parameter to what a microbatch adds to its running gradient."""

from __future__ import annotations

from collections.abc import Collection, Sequence

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
from proma_bench.projection.recursion import Before, successive_updates
from proma_bench.projection.successive import square_growth, successive_removals
from proma_bench.projection.updates import UpdateRule, extras_of, memory_size


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

    def explain(self, error: Exception) -> None:
        """Note, in an error that ends this microbatch, if it comes too late to have changed nothing."""
        if changed := self.finished - {parameter for parameter, _ in self.pending}:
            error.add_note(f"{len(changed)} parameters have new gradients already; zero_grad, and repeat the step")


class Solver:
    """Applies an update rule to the running gradients of one module's parameters.

    Attributes:
        records: what it did, where ``record`` asks for it.
        microbatches: how many there have been.
        memory: what the rule keeps of each parameter, by name.
    """

    def __init__(
        self,
        parameters: Parameters,
        rule: UpdateRule,
        unprojected: Collection[str],
        workspace_bytes: int | None,
        gram_method: GramMethod,
        record: bool,
    ) -> None:
        self.rule, self.record = rule, record
        self.records: list[Records] = []
        self.microbatches = 0
        self._parameters, self._unprojected, self._gram_method = parameters, unprojected, gram_method
        self._workspace = Workspace(workspace_bytes)
        self.memory: dict[str, Tensor] = {}
        self._memory_size, self._needs_norms = memory_size(rule), record or bool(extras_of(rule))

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
        if isinstance(self.rule, ProjectionConfig) and PROJECTION_METHODS[self.rule.method].takes == "factors":
            return self._intra(name, uses, advantages, shape, microbatch.size, self.rule)
        running = self._parameters.running(parameter)
        if running is None and microbatch.size == advantages.shape[0] and self.rule.plain_first:
            return plain_gradient(uses, advantages, shape)
        if not self._workspace.has_room((advantages.shape[0] + 1) * parameter.numel(), advantages):
            self.flush(microbatch)
        start = self._workspace.used
        running = None if running is None else running.reshape(shape)
        measured = measure(uses, running, shape, advantages, self._workspace, self._gram_method)
        if not in_place or is_watched(parameter):
            weights, kept = self._solve([(parameter, measured)], advantages, microbatch.size)
            gradient = torch.zeros(shape, dtype=dtype, device=parameter.device)
            if kept is not None and running is not None:
                running.mul_(kept[0])  # as part of a 16-bit sum, what it takes away would drown the rest
            add_weighted(measured, weights[0], gradient)
            self._workspace.used = start
            return gradient
        microbatch.pending.append((parameter, measured))
        if measured.is_partly_kept:
            self.flush(microbatch)  # a large tensor: release its factors
        return None

    def _intra(
        self,
        name: str,
        uses: list[SequenceGrads],
        advantages: Tensor,
        shape: torch.Size,
        size: int,
        config: ProjectionConfig,
    ) -> Tensor:
        found = intra_gradient(uses, advantages, shape, size, config)
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
        solved = [  # all before any gradient changes, as a rule may raise an error
            (group, *self._solve(group, microbatch.advantages.to(device, dtype), microbatch.size))
            for (device, dtype), group in groups.items()
        ]
        for group, weights, kept in solved:
            for number, (parameter, measured) in enumerate(group):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
                elif kept is not None:
                    parameter.grad.mul_(kept[number])
                add_weighted(measured, weights[number], parameter.grad.view(parameter.shape or (1,)))
        microbatch.pending.clear()
        self._workspace.used = 0

    def _solve(
        self, group: list[tuple[Tensor, Measured]], advantages: Tensor, size: int
    ) -> tuple[Tensor, Tensor | None]:
        """The corrected advantages [P, N] of P tensors; and the factors on their running gradients, None for one."""
        gram = torch.stack([measured.gram for _, measured in group])
        overlap = torch.stack([measured.overlap for _, measured in group])
        norms = self._running_norms(group, gram) if self._needs_norms else None
        if isinstance(self.rule, ProjectionConfig):
            removed = successive_removals(gram, overlap, advantages, size, self.rule)
            if norms is not None:
                found = norms.unsqueeze(1)
                if removed.norm.shape[1] > 1:  # later virtual microbatches find what the earlier ones have left
                    growth = square_growth(gram, advantages, removed, size)
                    found = (found.square() + growth.cumsum(dim=1) - growth).clamp_min(0.0).sqrt()
                self._keep_records(group, removed.norm, found, removed.clamped)
            return (advantages - removed.coefficients).to(advantages.dtype), None
        before = None if norms is None else Before(norms, self._remembered(group, norms))
        done = successive_updates(gram, overlap, advantages, size, self.rule, before)
        if done.memory is not None and self._memory_size:
            for (parameter, _), row in zip(group, done.memory, strict=True):
                name = self._parameters.name(parameter)
                if name in self.memory:
                    self.memory[name].copy_(row)  # in place, for a CUDA graph
                else:
                    self.memory[name] = row.clone()
        if self.record and done.changes is not None:
            self._keep_records(group, *done.changes, done.observed)
        return done.coefficients.to(advantages.dtype), done.kept

    def _remembered(self, group: list[tuple[Tensor, Measured]], like: Tensor) -> Tensor | None:
        """What the rule has kept of these parameters; zeros of one that it has not met."""
        if not self._memory_size:
            return None
        nothing = like.new_zeros(self._memory_size)
        rows = [self.memory.get(self._parameters.name(parameter), nothing) for parameter, _ in group]
        return torch.stack([row.to(like.device) for row in rows])

    def _running_norms(self, group: list[tuple[Tensor, Measured]], gram: Tensor) -> Tensor:
        running = [self._parameters.running(parameter) for parameter, _ in group]
        zero = gram.new_zeros(())
        norms = [zero if gradient is None else _norm(gradient, gram.dtype) for gradient in running]
        return torch.stack(norms).double()

    def _keep_records(
        self,
        group: list[tuple[Tensor, Measured]],
        changed: Tensor,
        norm: Tensor,
        clamped: Tensor,
        observed: Sequence[dict[str, Tensor]] = (),
    ) -> None:
        names = [self._parameters.name(parameter) for parameter, _ in group]
        methods = [measured.gram_method for _, measured in group]
        plain = [self.rule.plain_first and self._parameters.running(parameter) is None for parameter, _ in group]
        self.records.append(Records(names, methods, self.microbatches, plain, changed, norm, clamped, observed))


def _norm(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """In one kernel, unless the running gradient is of a wider type than the computation."""
    wide = torch.promote_types(gradient.dtype, dtype)
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=wide).to(dtype)
    return norm
