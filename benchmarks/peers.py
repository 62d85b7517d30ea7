"""The ways to per-sequence gradients that people use today, each as a step that leaves an update in ``grad``.

A contender is attached to a module and gives a *step*, a function of one microbatch. What two steps should leave is
known from `peer_updates`, so that every contender can be checked before it is timed. A package is imported when its
contender is attached, and not before: it need not be installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks.literal import LiteralHooks
from benchmarks.peer_page import NOT_INSTALLED
from benchmarks.peer_updates import (
    EXACT,
    ITERATIVE,
    Gradients,
    Update,
    exact_update,
    isopo,
    isopo_update,
    iterative_update,
    plain_update,
    reference,
)
from benchmarks.peer_works import Micro, PeerWork
from benchmarks.works import sharing_copy
from proma_bench import ProjectionConfig, Proma, corrected_advantages

PLAIN = "plain autograd"
LONGEST = 160  # characters of an error's message that are kept

Step = Callable[[Micro], None]
Attach = Callable[[PeerWork, nn.Module], Step]
Verdict = dict[str, Any]
"""``error``: the largest relative error over parameters; or ``reason``: why there is none."""


@dataclass(frozen=True)
class Contender:
    """attach: makes the step. update: what a step should do.

    covers: the names of the parameters for which it should do so; None for all.
    """

    name: str
    attach: Attach
    update: Update
    covers: Callable[[nn.Module], set[str]] | None = None


def verdicts(work: PeerWork, contenders: Sequence[Contender]) -> dict[str, Verdict]:
    """How far each contender is from what it should leave, after both microbatches; or why it leaves nothing."""
    module = work.module()
    expected = reference(work, module, {contender.update for contender in contenders})
    found: dict[str, Verdict] = {}
    for contender in contenders:
        try:
            found[contender.name] = {"error": error(work, contender, sharing_copy(module), expected[contender.update])}
        except ImportError:
            found[contender.name] = {"reason": NOT_INSTALLED}
        except Exception as raised:  # whatever a package raises where it cannot do it is a result
            found[contender.name] = {"reason": f"{type(raised).__name__}: {_beginning(str(raised))}"}
    return found


def error(work: PeerWork, contender: Contender, module: nn.Module, expected: Gradients) -> float:
    """The largest relative error over parameters after both microbatches.

    Raises:
        LookupError: a parameter has no gradient, or there is no parameter that the contender knows.
    """
    covered = contender.covers(module) if contender.covers else set(expected)
    if not covered:
        raise LookupError("none of the parameters is one that it knows")
    step = contender.attach(work, module)
    for micro in work.microbatches:
        step(micro)
    errors = []
    for name in covered:
        gradient = module.get_parameter(name).grad
        if gradient is None:
            raise LookupError(f"{name} has no gradient")
        errors.append(float((gradient - expected[name]).norm() / expected[name].norm()))
    return max(errors)


def _beginning(text: str) -> str:
    """The first sentence, and not too much of it."""
    sentence = text.strip().partition("\n")[0].partition(". ")[0].rstrip(".")
    return sentence if len(sentence) <= LONGEST else f"{sentence[:LONGEST]} ..."


# ------------------------------------------------------------------------------------------------------ contenders


def plain(work: PeerWork, module: nn.Module) -> Step:
    def step(micro: Micro) -> None:
        (-(micro.advantages * work.log_probs(module, micro.inputs)).sum()).backward()

    return step


def ours(config: ProjectionConfig, **options: Any) -> Attach:
    return lambda work, module: _in_microbatch(work, module, Proma(module, config, **options))


def literal(work: PeerWork, module: nn.Module) -> Step:
    return _in_microbatch(work, module, LiteralHooks(module, ITERATIVE))


def _in_microbatch(work: PeerWork, module: nn.Module, attached: Proma | LiteralHooks) -> Step:
    def step(micro: Micro) -> None:
        log_probs = work.log_probs(module, micro.inputs)
        with attached.microbatch(micro.advantages):
            (-log_probs.sum()).backward()

    return step


def vmapped(work: PeerWork, module: nn.Module) -> Step:
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}

    def loss(values: Gradients, inputs: Tensor) -> Tensor:
        def call(*arguments: Any, **options: Any) -> Any:
            return functional_call(module, values, arguments, options)

        return -work.log_probs(call, inputs.unsqueeze(0)).sum()

    def step(micro: Micro) -> None:
        values = {name: parameter.detach() for name, parameter in parameters.items()}
        seq_grads = vmap(grad(loss), in_dims=(None, 0))(values, micro.inputs)
        add_projected({parameters[name]: rows for name, rows in seq_grads.items()}, micro.advantages)

    return step


def opacus(work: PeerWork, module: nn.Module) -> Step:
    from opacus import GradSampleModule

    wrapped = GradSampleModule(module, loss_reduction="sum")

    def step(micro: Micro) -> None:
        log_probs = work.log_probs(wrapped, micro.inputs)
        with running_gradients_kept(module):
            (-log_probs.sum()).backward()
        add_projected(taken(module, "grad_sample"), micro.advantages)

    return step


def backpack(work: PeerWork, module: nn.Module) -> Step:
    from backpack import backpack as extended_backward
    from backpack import extend
    from backpack.extensions import BatchGrad

    extend(module)

    def step(micro: Micro) -> None:
        log_probs = work.log_probs(module, micro.inputs)
        with running_gradients_kept(module), extended_backward(BatchGrad()):
            (-log_probs.sum()).backward()
        add_projected(taken(module, "grad_batch"), micro.advantages)

    return step


def torchjd(work: PeerWork, module: nn.Module) -> Step:
    from torchjd.autogram import Engine

    engine = Engine(module, batch_dim=0)

    def step(micro: Micro) -> None:
        log_probs = work.log_probs(module, micro.inputs)
        weights = isopo(engine.compute_gramian(log_probs), micro.advantages)
        (-log_probs).backward(weights.to(log_probs.dtype))

    return step


@contextmanager
def running_gradients_kept(module: nn.Module) -> Iterator[None]:
    """Autograd adds a gradient of its own to ``grad``; that is thrown away, as in Opacus's own optimizer."""
    kept = {parameter: parameter.grad for parameter in module.parameters()}
    for parameter in kept:
        parameter.grad = None
    yield
    for parameter, gradient in kept.items():
        parameter.grad = gradient


def taken(module: nn.Module, attribute: str) -> dict[nn.Parameter, Tensor]:
    """The sequence gradients that a package left on the parameters; they are taken off again.

    Raises:
        LookupError: a trained parameter has none.
    """
    found = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            rows = getattr(parameter, attribute, None)
            if rows is None:
                raise LookupError(f"no gradient for each sequence of {name}")
            found[parameter] = rows
            setattr(parameter, attribute, None)
    return found


def add_projected(seq_grads: Mapping[nn.Parameter, Tensor], advantages: Tensor) -> None:
    """PROMA's exact step from sequence gradients written out; the small systems of all tensors are solved at once."""
    flat = {parameter: rows.flatten(1) for parameter, rows in seq_grads.items()}
    for parameter in flat:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gram = torch.stack([rows @ rows.T for rows in flat.values()])
    overlap = torch.stack([rows @ parameter.grad.flatten() for parameter, rows in flat.items()])
    weights = corrected_advantages(gram, overlap, advantages, EXACT)
    for (parameter, rows), row_weights in zip(flat.items(), weights.to(gram.dtype), strict=True):
        parameter.grad.view(-1).addmv_(rows.T, row_weights)


def projected_by_literal_hooks(module: nn.Module) -> set[str]:
    """Weights of linear layers that nothing else uses."""
    holders: dict[nn.Parameter, list[nn.Module]] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            holders.setdefault(parameter, []).append(layer)
    return {
        name
        for name, parameter in module.named_parameters()
        if len(holders[parameter]) == 1 and isinstance(holders[parameter][0], nn.Linear) and name.endswith("weight")
    }


CONTENDERS = (
    Contender(PLAIN, plain, plain_update),
    Contender("PROMA exact", ours(EXACT), exact_update),
    Contender("PROMA iterative", ours(ITERATIVE), iterative_update),
    Contender("vmap(grad)", vmapped, exact_update),
    Contender("Opacus", opacus, exact_update),
    Contender("TorchJD", torchjd, isopo_update),
    Contender("BackPACK", backpack, exact_update),
    Contender("literal hooks", literal, iterative_update, projected_by_literal_hooks),
)
WORKSPACE = 16  # MiB: what a step keeps of the sequence gradients is a setting
SMALL_WORKSPACE = Contender(
    f"PROMA exact, {WORKSPACE} MiB", ours(EXACT, workspace_bytes=WORKSPACE * 2**20), exact_update
)
