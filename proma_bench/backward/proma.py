"""`Proma`: projected microbatch accumulation as the backward pass of a module. The one class that users meet.

The algorithm is in `proma_bench.projection`, what a layer contributes in `layers/`, and how it gets into the backward
pass in `engine.py` and `taps.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Literal
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from proma_bench.backward.compiled import keep_buffers, uncompiled
from proma_bench.backward.cost import GRAM_METHODS, GramMethod, microbatches_per_pass
from proma_bench.backward.engine import BackwardEngine
from proma_bench.backward.layout import Layout
from proma_bench.backward.records import ProjectionRecord, unpacked
from proma_bench.backward.streams import is_captured
from proma_bench.backward.taps import layers_of
from proma_bench.backward.uncovered import Uncovered, require_uncovered
from proma_bench.projection.config import ProjectionConfig, require_backward_method
from proma_bench.projection.recursion import PassRule
from proma_bench.projection.updates import AnyRule, as_rule, memory_size

_ATTACHED: WeakSet[nn.Module] = WeakSet()  # what has a Proma, also where no layer has a rule that would show it


class Proma:
    """Projected microbatch accumulation as the backward pass of a module.

        proma = Proma(module, ProjectionConfig())
        for micro in microbatches:
            proma.backward(log_probs(micro), micro.advantages)       # fills param.grad
        optimizer.step(); optimizer.zero_grad()

    ``param.grad`` is the running gradient: clipping, any optimizer and ``zero_grad`` work as usual. With one microbatch
    it is the gradient of ``-(advantages * log_probs).sum()``. Every further microbatch first projects what is there
    already, tensor by tensor. Backward passes outside of `backward` and `microbatch` give the plain gradient.

    Under DistributedDataParallel with ``no_sync``, and under `fully_shard` (FSDP2) with
    ``set_requires_gradient_sync(False)``, on all but the last microbatch, each rank projects its own running gradient
    over its own microbatches, and the results are averaged. That is not a projection of the averaged gradient; see
    ``docs/distributed.md``.

    Before a backward pass changes anything, its graph is looked at: what it reaches must be this module's, and each row
    of an activation must belong to one sequence, which is tested when a microbatch of a new structure appears (by three
    more backward passes, four from 33 sequences on). What fails is refused by name; see ``docs/coverage.md``.

    A microbatch uses one CUDA stream, for its forward and its backward pass. A pass may be captured as a CUDA graph
    once a microbatch of its structure has been verified; see ``docs/gpu.md``.

    Attach after `fully_shard`, and before or after ``torch.compile``: what lies between the layers is compiled.

    It is a context manager, or detach with `remove`.
    """

    def __init__(
        self,
        module: nn.Module,
        rule: AnyRule | None = None,
        *,
        record: bool = False,
        unprojected: Collection[str] = (),
        workspace_bytes: int | None = None,
        gram_method: GramMethod = "auto",
        uncovered: Uncovered = "refuse",
        check: bool | Literal["always"] = True,
    ) -> None:
        """Attach to every layer of ``module`` that has a rule; other parameters are followed in the graph.

        Args:
            module: what is trained.
            rule: how a microbatch updates the running gradient: a `ProjectionConfig` (the default), one of
                `proma_bench.projection.rules`, or any function ``rule(gram, overlap, advantages)`` to coefficients, see
                `UpdateRule`.
            record: keep what `stats` returns; costs one more pass over each running gradient.
            unprojected: names of parameters whose gradient accumulates plainly, as without PROMA.
            workspace_bytes: limit of the buffer for sequence gradients that are written out; None is 256 MiB, on a GPU
                a 64th of its memory if that is more.
            gram_method: how linear layers are measured: ``auto`` chooses the cheaper one for each, see `cost`.
            uncovered: what happens to parameters for which rows of sequences cannot be told apart, because something
                mixes the rows of a batch: ``refuse``, or ``autograd``: their sequence gradients come from ``B`` more
                backward passes in each microbatch. That is right for whatever can be differentiated.
            check: test whether rows are sequences, once for each structure of a microbatch; ``always`` in each
                microbatch, which also finds what the data alone decides (a mask that lets rows see each other, say);
                False never: then time-first activations that happen to be as long as the batch, for one, give wrong
                gradients.

        Raises:
            ValueError: there is nothing to train; a parameter is complex, or not whole on each rank (FSDP1, tensor
                parallelism); the module has a Proma already; a name in ``unprojected`` is no parameter's; the
                projection method needs the gradients written out (``qr``); the rule does not take a rule's arguments.
                Nothing is attached then.
        """
        self.rule = as_rule(ProjectionConfig() if rule is None else rule)
        if isinstance(self.rule, ProjectionConfig):
            require_backward_method(self.rule)
        if gram_method not in GRAM_METHODS:
            raise ValueError(f"gram_method must be one of {', '.join(GRAM_METHODS)}, got {gram_method!r}")
        names = {name for name, _ in module.named_parameters()}
        if unknown := [name for name in unprojected if name not in names]:
            raise ValueError(f"unprojected names no parameter of {type(module).__name__}: {', '.join(unknown)}")
        require_uncovered(uncovered)
        if check not in (True, False, "always"):
            raise ValueError(f"check must be True, False or 'always', got {check!r}")
        if not names:
            raise ValueError(f"{type(module).__name__} has no parameter")
        if any(child in _ATTACHED for child in module.modules()):
            raise ValueError(f"{type(module).__name__} has a Proma attached already; call its remove() first")
        self._module = module
        self._engine = BackwardEngine(
            module,
            self.rule,
            unprojected=set(unprojected),
            workspace_bytes=workspace_bytes,
            gram_method=gram_method,
            record=record,
            uncovered=uncovered,
            check=check,
        )
        self._layers = layers_of(module, self._engine)
        self._engine.guard_parameters()
        for layer in self._layers:
            layer.attach()
        _ATTACHED.add(module)
        self._is_attached = True
        keep_buffers()

    @uncompiled
    def backward(
        self,
        log_probs: Float[Tensor, " B"],
        advantages: Float[Tensor, " B"],
        sequence_ids: Int[Tensor, "*rows"] | None = None,
        *,
        microbatch_size: int | None = None,
    ) -> None:
        """Add this microbatch to the running gradient ``param.grad`` of every trainable parameter, projecting first.

        Args:
            log_probs: the sequences' log-probs (with the weights of their tokens, if any), a graph through the module.
            advantages: one number per sequence.
            sequence_ids: the sequence of every row, if the first axis of the module's activations is not the sequence;
                in the shape of the activations' leading axes: ``[N]`` or ``[1, total]``.
            microbatch_size: treat the sequences as successive microbatches of this size. The result is that of as many
                calls (see `successive`); a small model is much faster with few large backward passes.

        Raises:
            ValueError: shapes do not match, numbers are not finite, the graph leads to parameters of others, or rows
                belong to no single sequence. No gradient has changed then.
            RuntimeError: the graph does not lead through the module.
        """
        _check_vector("log_probs", log_probs)
        if log_probs.shape != advantages.shape:
            raise ValueError(
                f"log_probs has shape {list(log_probs.shape)} and advantages {list(advantages.shape)}; "
                "both must be [B], one number per sequence"
            )
        if not log_probs.requires_grad:
            raise ValueError("log_probs does not depend on the module that this Proma is attached to: it has no graph")
        _check_vector("advantages", advantages)
        _check_finite(log_probs=log_probs, advantages=advantages)
        with self._opened(advantages, sequence_ids, microbatch_size):
            (-log_probs.sum()).backward()  # type: ignore[no-untyped-call]

    @contextmanager
    @uncompiled
    def microbatch(
        self,
        advantages: Float[Tensor, " B"],
        sequence_ids: Int[Tensor, "*rows"] | None = None,
        *,
        microbatch_size: int | None = None,
    ) -> Iterator[None]:
        """For a trainer that calls backward itself: ``(-log_probs.sum()).backward()`` in this context is `backward`.

        The loss must be minus the *sum of the sequence log-probs*, without advantages: a sequence with advantage zero
        still names a direction. A constant factor (a gradient scaler's) changes nothing but the scale.

        Raises:
            ValueError: as for `backward`.
            RuntimeError: no gradient came through the module, or one by other means than ``loss.backward()``.
        """
        _check_vector("advantages", advantages)
        _check_finite(advantages=advantages)
        with self._opened(advantages, sequence_ids, microbatch_size):
            yield

    def _opened(
        self, advantages: Tensor, sequence_ids: Tensor | None, size: int | None
    ) -> AbstractContextManager[None]:
        """A microbatch of vectors that have been checked. They go where the module is, lest its backward pass waits."""
        device = next(self._module.parameters()).device
        layout = Layout(len(advantages), sequence_ids, device)
        return self._engine.microbatch(advantages.detach().to(device, non_blocking=True), layout, size)

    def microbatches_per_pass(self, size: int, rows_per_sequence: float, microbatches: int) -> int:
        """How many microbatches of ``size`` sequences one backward pass should take, at most ``microbatches``.

        One for a large model, many for a small one, whose passes cost more in calls than in arithmetic. The memory of
        a pass grows with the number. All of them for a rule that looks at several microbatches at once (`elsewhere`).
        """
        if isinstance(self.rule, PassRule):
            return microbatches
        shapes = (parameter.shape for parameter in self._module.parameters() if parameter.requires_grad)
        return microbatches_per_pass(shapes, size, rows_per_sequence, microbatches)

    def stats(self) -> list[ProjectionRecord]:
        """One record per parameter tensor and microbatch.

        There is none where nothing was projected: in the first microbatch of a step (unless the rule changes that as
        well), and with the intra method for tensors that are not the weight of a linear layer.

        Raises:
            RuntimeError: it was not attached with ``record=True``.
        """
        if not self._engine.solver.record:
            raise RuntimeError("nothing was recorded; attach with Proma(module, rule, record=True)")
        return list(unpacked(self._engine.solver.records))

    def clear_stats(self) -> None:
        """Forget the records, and count microbatches from 0 again."""
        self._engine.solver.records.clear()
        self._engine.solver.microbatches = 0

    def state_dict(self) -> dict[str, Tensor]:
        """What the rule keeps across optimizer steps, a row for each parameter by its name; empty for most rules."""
        return {name: row.clone() for name, row in self._engine.solver.memory.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with what `state_dict` has returned.

        Raises:
            ValueError: it is not the state of this rule on this module. Nothing has changed then.
        """
        size, names = memory_size(self.rule), {name for name, _ in self._module.named_parameters()}
        for name, row in state.items():
            if name not in names:
                raise ValueError(f"the rule's state names {name!r:.60}, which is no parameter of the module")
            if row.shape != (size,) or row.dtype != torch.float64 or not bool(row.isfinite().all()):
                raise ValueError(f"the rule's state of {name!r:.60} must be {size} finite numbers in torch.float64")
        self._engine.solver.memory = {name: row.clone() for name, row in state.items()}

    def remove(self) -> None:
        """Detach: the module is as it was before. Calling it again does nothing."""
        for layer in self._layers:
            layer.detach()
        self._engine.release_parameters()
        self._layers = []
        if self._is_attached:
            _ATTACHED.discard(self._module)
            self._is_attached = False

    def __enter__(self) -> Proma:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


def _check_vector(name: str, values: Tensor) -> None:
    if values.ndim != 1 or len(values) == 0 or not values.is_floating_point():
        raise ValueError(
            f"{name} must be floating-point numbers [B], one per sequence; got {values.dtype} {list(values.shape)}"
        )


def _check_finite(**vectors: Tensor) -> None:
    """All of them at once, because looking at a number waits for its device."""
    if any(is_captured(values.device) for values in vectors.values()):
        return
    are_finite = [values.isfinite().all() for values in vectors.values()]
    if bool(torch.stack([flag.to(are_finite[0].device) for flag in are_finite]).all()):
        return
    for name, values in vectors.items():
        if where := (~values.isfinite()).nonzero().flatten().tolist():
            raise ValueError(f"{name} must be finite; those of sequences {where} are not ({values[where[0]].item()})")
