"""The engine behind `Proma`: the taps of one module report to it while a backward pass is under way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from proma_bench.backward.contribution import Received, contribution, contribution_problem, without_autocast
from proma_bench.backward.cost import GramMethod
from proma_bench.backward.direct import DirectPass, adds_up
from proma_bench.backward.factors import Dense, SequenceGrads, compute_dtype
from proma_bench.backward.graph import Node, Survey, survey
from proma_bench.backward.guards import Guards
from proma_bench.backward.interception import intercepted
from proma_bench.backward.layout import Layout
from proma_bench.backward.measure import plain_gradient
from proma_bench.backward.parameters import Parameters
from proma_bench.backward.plan import Plan, Request
from proma_bench.backward.planner import Planner
from proma_bench.backward.solving import Microbatch, Solver
from proma_bench.backward.streams import Use, use_of
from proma_bench.backward.taps import Call, Gates
from proma_bench.backward.verification import Verification
from proma_bench.projection.updates import UpdateRule


class BackwardEngine:
    """The taps of one module report to it; users see it through `Proma`.

    Outside of a microbatch all rows count as one sequence with advantage one, which gives the plain gradient.
    """

    def __init__(
        self,
        module: nn.Module,
        rule: UpdateRule,
        *,
        unprojected: Collection[str],
        workspace_bytes: int | None,
        gram_method: GramMethod,
        record: bool,
        uncovered: str,
        check: bool | str,
    ) -> None:
        self.module = module
        self.uncovered, self.check = uncovered, check
        self._parameters = Parameters(module)
        self.solver = Solver(self._parameters, rule, unprojected, workspace_bytes, gram_method, record)
        self._planner = Planner(self, self._parameters)
        self._guards = Guards(self)
        self._gates = Gates()
        self._lock = threading.Lock()
        self._microbatch: Microbatch | None = None
        self._is_plain = False
        self._plan: Plan | None = None
        self._verification: Verification | None = None
        self._uses: dict[int, dict[Use, list[SequenceGrads]]] = {}  # by the number of autograd's graph task
        self._returned: dict[Tensor, Tensor] = {}

    # ------------------------------------------------------------------------------------------- a microbatch

    @contextmanager
    def microbatch(self, advantages: Tensor, layout: Layout, size: int | None) -> Iterator[None]:
        """Backward passes in this context belong to one microbatch; RuntimeError if none reached the module."""
        if self._microbatch is not None:
            raise RuntimeError("microbatches cannot be nested: one backward pass, one set of advantages")
        microbatch = self._microbatch = Microbatch(advantages, layout, size)
        thread, before = threading.get_ident(), set(self._uses)
        try:
            with intercepted(lambda backward, roots, options: self._differentiate(thread, backward, roots, options)):
                yield
        except Exception as error:
            microbatch.explain(error)
            raise
        finally:
            self._microbatch = None
            for task in self._uses.keys() - before:  # of a pass that has raised an error
                del self._uses[task]
            self._returned.clear()
            self.solver.forget()
        if not microbatch.finished:
            raise RuntimeError("no gradient of this microbatch came through a trainable layer of the module")
        self.solver.microbatches += -(-advantages.shape[0] // microbatch.size)

    def _differentiate(
        self, thread: int, backward: Callable[..., None], roots: list[Any], options: dict[str, Any]
    ) -> None:
        """What happens in place of ``torch.autograd.backward`` in a microbatch."""
        if self._is_plain:
            problem = "a module calls backward() within its own backward pass (a reversible layer, for one)"
            raise ValueError(f"{problem}, from which uncovered='autograd' cannot get gradients")
        microbatch, found = self._microbatch, survey(roots)
        is_within = bool(self._plan or self._verification) and torch._C._current_graph_task_id() != -1
        if is_within:  # a reentrant checkpoint, a reversible layer; not a pass of another thread
            self._planner.sort_leaves(found, nested=True)
            if self._verification is not None:
                self._verification.is_nested = True
            if self._plan is not None:
                self._plan.calls.update(id(call) for call in found.calls)
        if microbatch is None or is_within or not self._is_ours(found, thread):
            backward(roots, **options)
            return
        if options["inputs"] is not None or options["create_graph"]:
            raise ValueError("in a microbatch, call backward() without inputs= and create_graph=")
        if microbatch.finished and (again := microbatch.finished & found.parameters):
            names = ", ".join(map(self._parameters.name, again))
            raise RuntimeError(f"{names} received a gradient in two parts: use one backward pass in a microbatch")
        plan = self._planner.plan(Request(backward, roots, options["grad_tensors"], found), microbatch.layout)
        if plan.repeats_compiled:
            options["retain_graph"] = True
        with self._following(plan, microbatch):
            backward(roots, **options)

    def _is_ours(self, found: Survey, thread: int) -> bool:
        """Whether a pass of a microbatch begins; ValueError if it does not reach the module.

        Another thread may differentiate what has nothing to do with it.
        """
        is_ours = found.is_opaque or any(call.layer.engine is self for call in found.calls)
        is_ours = is_ours or any(self._parameters.find(leaf.variable) for leaf in found.leaves)
        if thread != threading.get_ident():
            if is_ours:
                raise RuntimeError("another thread differentiates this module while a microbatch of it is under way")
            return False
        if not is_ours:
            self._planner.sort_leaves(found)
            raise ValueError(
                "log_probs does not depend on the module that this Proma is attached to; differentiate other losses "
                "outside of the microbatch"
            )
        return True

    @contextmanager
    def _following(self, plan: Plan, microbatch: Microbatch) -> Iterator[None]:
        handles = [leaf.variable.register_hook(self._weighting(leaf, plan, microbatch)) for leaf in plan.leaves]
        direct: AbstractContextManager[None] = nullcontext()
        if plan.direct is not None:
            uses = plan.direct, plan.layout.sequences, plan.layout_of_operation, self._complete
            direct = DirectPass(*uses).installed()
        self._plan = plan
        try:
            with direct:
                yield
        finally:
            self._plan = None
            for handle in handles:
                handle.remove()

    def _weighting(self, leaf: Node, plan: Plan, microbatch: Microbatch) -> Callable[[Tensor], Tensor]:
        """An input that requires a gradient gets that of the loss with advantages."""

        def weight(gradient: Tensor) -> Tensor:
            layout = plan.layout_at((leaf, 0), "leaf", gradient.shape)
            assert layout is not None, "the rows of an input were not verified"
            return gradient * layout.weights(microbatch.advantages, gradient)

        return weight

    @contextmanager
    def verifying(self, verification: Verification) -> Iterator[None]:
        """Backward passes in this context change nothing and report to the verification."""
        self._verification = verification
        try:
            yield
        finally:
            self._verification = None

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Backward passes in this context give the plain gradient."""
        microbatch, self._microbatch, self._is_plain = self._microbatch, None, True
        try:
            yield
        finally:
            self._microbatch, self._is_plain = microbatch, False

    # ------------------------------------------------------------------------------------- called by the taps

    def gate(self, parameter: Tensor) -> Tensor:
        """The parameter's gate, see `Gates`."""
        with self._lock:  # all uses of a parameter must have one, in whatever threads they are
            self._guards.add(self._parameters.meet(parameter))
            return self._gates.of(self._parameters.canonical(parameter), self)

    def capture(self, call: Call, inputs: tuple[Any, ...], output: Tensor | None, grad_output: Tensor) -> None:
        """Note what one call of a layer contributes to the sequence gradients of its parameters."""
        task = torch._C._current_graph_task_id()
        if task not in self._uses:
            self._uses[task] = {}
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._end_pass(task))
        if grad_output.numel() == 0:  # an expert without a token
            return
        layout = self._layout(call, grad_output)
        if layout is None:
            return
        received = Received(call.layer, call.module, inputs, output, grad_output)
        with call.layer.lock, without_autocast(grad_output):
            if self._verification is not None:
                if problem := contribution_problem(received, layout):
                    self._verification.problems[call.layer] = problem
                return
            is_distrusted = self._is_plain and call.layer in self._planner.distrusted
            seq_grads = contribution(received, layout, is_distrusted=is_distrusted)
        for name, parameter in call.parameters.items():
            if name not in seq_grads:
                raise ValueError(f"{call.layer.title}: its rule gives no gradient for its parameter {name!r}")
            self._uses[task].setdefault(use_of(self._parameters.canonical(parameter)), []).append(seq_grads[name])

    def _layout(self, call: Call, grad_output: Tensor) -> Layout | None:
        """Which rows of this gradient belong to which sequence; None where that does not matter."""
        if self._verification is not None:
            return self._verification.call(call, grad_output)
        if self._microbatch is None:
            return Layout(1)
        plan = self._plan
        if plan is None or not (id(call) in plan.calls or plan.is_opaque):
            raise RuntimeError(
                f"{call.layer.title} received a gradient in a microbatch by other means than loss.backward() of its "
                "own thread (torch.autograd.grad, for one); compute such gradients outside of it"
            )
        if plan.by_autograd and all(parameter in plan.by_autograd for parameter in call.parameters.values()):
            plan.uses[call.layer] += 1
            return None
        return plan.layout_of_call(call.layer, grad_output.shape)

    def finish(self, parameter: Tensor) -> Tensor | None:
        """The gradient of a parameter all of whose uses have been captured; None where it is added in another way."""
        if self._verification is not None:
            return None
        plan, task = self._plan, torch._C._current_graph_task_id()
        if plan is not None and self._microbatch is not None:
            if parameter in plan.arriving:
                return None  # `_complete` knows of the other uses as well
            if parameter in plan.by_autograd:
                self._uses.get(task, {}).pop(use_of(parameter), None)
                return self._gradient(parameter, [Dense(plan.by_autograd[parameter])], in_place=False)
        uses = self._uses.get(task, {}).pop(use_of(parameter), None)
        return None if uses is None else self._gradient(parameter, uses, in_place=True)

    def _complete(self, parameter: Tensor, seq_grads: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of a parameter that is used directly, and perhaps by layers as well."""
        captured = self._uses.get(torch._C._current_graph_task_id(), {})
        own = [use for use in captured if use[0] is parameter]  # this hook may run on another stream than the layers
        uses = [seq_grads for use in own for seq_grads in captured.pop(use)]
        if self._plan is not None and parameter in self._plan.by_autograd:
            uses, seq_grads = [], self._plan.by_autograd[parameter]
        elif not adds_up(seq_grads, gradient):
            raise RuntimeError(f"a hook has changed the gradient of {self._parameters.name(parameter)!r} on its way")
        completed = self._gradient(parameter, [*uses, Dense(seq_grads)], in_place=False)
        assert completed is not None, "a gradient that is not added in place is returned"
        return completed

    def _gradient(self, parameter: Tensor, uses: list[SequenceGrads], *, in_place: bool) -> Tensor | None:
        microbatch, dtype = self._microbatch, compute_dtype(parameter)
        with without_autocast(parameter):
            if microbatch is None:
                weights = torch.ones(1, dtype=dtype, device=parameter.device)
                gradient: Tensor | None = plain_gradient(uses, weights, parameter.shape or torch.Size([1]))
            else:
                gradient = self.solver.gradient(parameter, uses, microbatch, in_place=in_place)
        if gradient is None:
            return None
        gradient = gradient.reshape(parameter.shape).to(parameter.dtype)
        if microbatch is not None:
            self._returned[parameter] = gradient
        return gradient

    def _end_pass(self, task: int) -> None:
        """Finish what is pending, and release what no gate has asked for, as `torch.autograd.grad` may not."""
        self._uses.pop(task, None)
        if self._microbatch is not None and self._verification is None:
            with torch.no_grad():
                self.solver.flush(self._microbatch)

    def guard_parameters(self) -> None:
        """From now on, raise when a parameter receives another gradient in a microbatch than the engine's."""
        self._guards.add(self._parameters)

    def release_parameters(self) -> None:
        """Undo `guard_parameters`."""
        self._guards.remove()
        self._uses.clear()

    def check_arrival(self, parameter: Tensor, gradient: Tensor) -> None:
        """Raise RuntimeError if, in a microbatch, this is not the gradient that the engine returned."""
        if self._microbatch is None:
            return
        returned = self._returned.pop(parameter, None)
        if returned is None or returned.data_ptr() != gradient.data_ptr():
            raise RuntimeError(
                f"parameter {self._parameters.name(parameter)!r} received a gradient from outside of its module's "
                "forward, or a hook on it that is older than Proma changed its gradient; call the module instead, and "
                "register such hooks after attaching"
            )
