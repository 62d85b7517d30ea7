"""A use of Proma ends in one of two ways: the gradients of the definition, or an exception before any has changed.

The definition needs no Proma: the gradient of a sequence's log-prob is what `torch.autograd.grad` says of it, from the
graph of the whole batch, so it holds for networks that mix sequences, too. From one microbatch to the next it is the
literal projection of `oracle`. Both are computed on a copy.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any, Literal, NamedTuple

import pytest
import torch
from oracle import literal_step
from torch import Tensor, nn

from proma_bench import ProjectionConfig, Proma

Outcome = Literal["right", "raised"]
Expected = Literal["right", "raised", "either"]
WAYS = ("backward", "microbatch")
REFUSALS = (ValueError, RuntimeError, TypeError)
SUBJECTS = re.compile("module|parameter|layer|log_probs|advantages|sequence_ids|microbatch")  # one of which is named
RELATIVE, ABSOLUTE = 1e-6, 1e-9  # of the gradient's norm, and of the largest that any tensor has
CONFIG = ProjectionConfig("iterative")

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X2 = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)


def nothing(model: Any) -> None:
    """What happens before and within most microbatches."""


def no_leaves(model: Any) -> Sequence[Tensor]:
    """Most models hold all that they depend on."""
    return ()


class Batch(NamedTuple):
    """One microbatch of a use.

    Attributes:
        log_probs: of the sequences, from a model.
        size: of virtual microbatches.
        before, between: what is done to the model before the forward pass, and between forward and backward.
        failing: a context in which a backward pass fails with an error of the user's; it is tried there first.
    """

    log_probs: Callable[[Any], Tensor]
    advantages: Tensor = ADVANTAGES
    sequence_ids: Tensor | None = None
    size: int | None = None
    before: Callable[[Any], object] = nothing
    between: Callable[[Any], object] = nothing
    failing: Callable[[Any], AbstractContextManager[object]] | None = None


class Case(NamedTuple):
    """A way to use Proma.

    Attributes:
        use: the log-probs of a model in one microbatch, or several microbatches.
        expected: how it ends.
        with_autograd: how it ends with ``uncovered="autograd"``; None asks nothing.
        leaves: tensors that are no parameters of the model and must be right, or unchanged, all the same.
        attach: makes the Promas, the first of which is asked.
        plainly: makes the copy one that autograd can differentiate, as it cannot through a reentrant checkpoint.
    """

    model: nn.Module
    use: Callable[[Any], Tensor] | Sequence[Batch]
    expected: Expected = "either"
    with_autograd: Expected | None = "right"
    leaves: Callable[[Any], Sequence[Tensor]] = no_leaves
    attach: Callable[..., list[Proma]] | None = None
    plainly: Callable[[Any], object] = nothing
    config: ProjectionConfig = CONFIG


class Wanted(NamedTuple):
    """After one microbatch: the gradients, those that rounding decides, the largest norm, and the log-probs."""

    gradients: dict[str, Tensor]
    undetermined: set[str]
    scale: float
    log_probs: Tensor


def score(output: Tensor) -> Tensor:
    """One number per row of the first axis, that depends on everything in it and has no symmetry."""
    rows = output.flatten(1)
    weights = torch.cos(0.7 * torch.arange(rows.shape[1], dtype=rows.dtype) + 1)
    return (rows.sin() * weights).sum(1)


def double(module: nn.Module, seed: int = 0) -> Any:
    """The module in float64, with weights from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64) + 0.1)
    return module


def in_all_ways(cases: Sequence[Callable[[], Case]]) -> Callable[[Any], Any]:
    """Decorate a test of each case: by each way, with and without ``uncovered="autograd"``."""

    def decorate(test: Any) -> Any:
        test = pytest.mark.parametrize("case", cases, ids=lambda case: case.__name__)(test)
        test = pytest.mark.parametrize("way", WAYS)(test)
        return pytest.mark.parametrize("uncovered", [False, True], ids=["default", "uncovered"])(test)

    return decorate


def assert_outcome(case: Case, way: str, uncovered: bool = False) -> None:
    """The case ends as it says, with or without ``uncovered="autograd"``."""
    expected = case.with_autograd if uncovered else case.expected
    found = outcome(case, way, **({"uncovered": "autograd"} if uncovered else {}))
    assert expected in ("either", found), f"it was {found}; expected is {expected}"


def right_or_raised(
    model: nn.Module,
    use: Callable[[Any], Tensor] | Sequence[Batch],
    advantages: Tensor = ADVANTAGES,
    *,
    way: str = "backward",
    **options: Any,
) -> Outcome:
    """How this use ends; fails if gradients are wrong, or have changed although it raised."""
    batches = [Batch(use, advantages)] if callable(use) else list(use)
    return outcome(Case(model, batches), way, **options)


def outcome(case: Case, way: str, **options: Any) -> Outcome:
    """How the case ends; fails if gradients are wrong, or have changed although it raised."""
    batches = [Batch(case.use)] if callable(case.use) else list(case.use)
    wanted = wanted_gradients(case, batches)
    leaves = leaves_of(case, case.model)
    before = snapshot(leaves)
    with ExitStack() as promas:
        try:
            found = (case.attach or _attach)(case.model, case.config, **options)
        except REFUSALS as error:
            assert_unchanged(before, leaves, error)
            return "raised"
        for proma in found:
            promas.enter_context(proma)
        for number, (batch, want) in enumerate(zip(batches, wanted, strict=True)):
            batch.before(case.model)
            leaves = leaves_of(case, case.model)  # those of the forward pass, whatever happens to the model after it
            before = snapshot(leaves)
            if batch.failing is not None:
                with batch.failing(case.model), suppress(ArithmeticError, *REFUSALS):
                    run_batch(case.model, found[0], batch, way, number)
                restore(before, leaves)  # what an error of the user's leaves is the user's
            try:
                run_batch(case.model, found[0], batch, way, number, want.log_probs)
            except REFUSALS as error:
                assert_unchanged(before, leaves, error)
                return "raised"
            assert_right(snapshot(leaves), want)
    return "right"


def run_batch(model: Any, proma: Proma, batch: Batch, way: str, seed: int, wanted: Tensor | None = None) -> None:
    """Forward and backward pass of one microbatch. ``inside``: the forward pass, too, in the context."""
    arguments = batch.advantages, batch.sequence_ids
    if way == "inside":
        with proma.microbatch(*arguments, microbatch_size=batch.size):
            log_probs = _forward(model, batch, seed, wanted)
            batch.between(model)
            (-log_probs.sum()).backward()
        return
    log_probs = _forward(model, batch, seed, wanted)
    batch.between(model)
    if way == "backward":
        proma.backward(log_probs, *arguments, microbatch_size=batch.size)
        return
    assert way == "microbatch", way
    with proma.microbatch(*arguments, microbatch_size=batch.size):
        (-log_probs.sum()).backward()


def _forward(model: Any, batch: Batch, seed: int, wanted: Tensor | None) -> Tensor:
    torch.manual_seed(seed)
    log_probs = batch.log_probs(model)
    assert wanted is None or torch.allclose(log_probs.detach(), wanted), "attaching changed the forward pass"
    return log_probs


def _attach(model: nn.Module, config: ProjectionConfig, **options: Any) -> list[Proma]:
    return [Proma(model, config, **options)]


# ------------------------------------------------------------------------------------------------ the definition


def wanted_gradients(case: Case, batches: Sequence[Batch]) -> list[Wanted]:
    """By plain autograd on a copy of the model, after each microbatch."""
    model = copy.deepcopy(case.model)
    case.plainly(model)
    shared = [leaf for leaf in case.leaves(model) if any(leaf is other for other in case.leaves(case.model))]
    wanted, undetermined = [], set[str]()
    for number, batch in enumerate(batches):
        batch.before(model)
        if batch.failing is not None:  # the pass that fails leaves its traces in the model, too
            torch.manual_seed(number)
            batch.log_probs(model)
            batch.between(model)
        torch.manual_seed(number)
        log_probs = batch.log_probs(model)
        leaves = leaves_of(case, model)
        rows = sequence_gradients(log_probs, leaves)
        batch.between(model)
        scale = max((float(row.reshape(len(row), -1).norm(dim=1).max()) for row in rows.values()), default=0.0)
        undetermined |= {name for name in rows if _step(leaves[name], rows[name], batch, case.config, scale)}
        gradients = {name: leaf.grad.clone() for name, leaf in leaves.items() if leaf.grad is not None}
        scale = max([scale, *(float(gradient.norm()) for gradient in gradients.values())])
        wanted.append(Wanted(gradients, set(undetermined), scale, log_probs.detach()))
    for leaf in shared:
        leaf.grad = None
    return wanted


def sequence_gradients(log_probs: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient [B, *shape] of every sequence's minus log-prob, for the leaves that require one."""
    trainable = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    tensors = list(trainable.values())
    rows = []
    for log_prob in log_probs:
        if not log_prob.requires_grad:
            return {}
        found = torch.autograd.grad(-log_prob, tensors, retain_graph=True, allow_unused=True)
        pairs = zip(tensors, found, strict=True)
        rows.append([torch.zeros_like(leaf) if grad is None else grad.to_dense() for leaf, grad in pairs])
    return dict(zip(trainable, map(torch.stack, zip(*rows, strict=True)), strict=True))


def _step(leaf: Tensor, rows: Tensor, batch: Batch, config: ProjectionConfig, scale: float) -> bool:
    """Put the next running gradient into ``leaf.grad``; whether rounding decides what it is.

    It does where sequences' gradients are rounding themselves, as of a bias in front of a normalisation: the direction
    of such a gradient is an accident. A perturbation of the size of rounding shows it. What is rounded are numbers of
    about one, whatever the size of the gradients.
    """
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0), dtype=rows.dtype)
    noisy = rows + 1e-13 * max(scale, 1.0) / max(1.0, leaf.numel() ** 0.5) * noise
    perturbed = leaf.grad
    for part, other, advantages in zip(
        *(values.split(batch.size or len(rows)) for values in (rows, noisy, batch.advantages)), strict=True
    ):
        leaf.grad = literal_step(leaf.grad, part, advantages, config)
        perturbed = literal_step(perturbed, other, advantages, config)
    assert leaf.grad is not None and perturbed is not None
    return float((leaf.grad - perturbed).norm()) > 1e-8 * max(scale, float(leaf.grad.norm()))


def leaves_of(case: Case, model: nn.Module) -> dict[str, Tensor]:
    """Parameters, and what else the case says must be right, by name."""
    others = {f"leaf {number}": leaf for number, leaf in enumerate(case.leaves(model))}
    return dict(model.named_parameters()) | others


# ------------------------------------------------------------------------------------------------ what is asserted


def snapshot(leaves: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """The gradients as they are now."""
    return {name: None if leaf.grad is None else leaf.grad.clone() for name, leaf in leaves.items()}


def restore(before: dict[str, Tensor | None], leaves: dict[str, Tensor]) -> None:
    """Put these gradients back."""
    for name, gradient in before.items():
        leaves[name].grad = None if gradient is None else gradient.clone()


def assert_right(found: dict[str, Tensor | None], wanted: Wanted) -> None:
    """Every gradient is the wanted one; none at all is as good as zeros."""
    for name in found.keys() | wanted.gradients.keys():
        one, other = found.get(name), wanted.gradients.get(name)
        if name in wanted.undetermined or (one is None and other is None):
            continue
        if one is None or other is None:
            one, other = (torch.zeros_like(one if other is None else other) if g is None else g for g in (one, other))
        error, size = float((one.to_dense() - other).norm()), float(other.norm())
        if not error <= RELATIVE * size + ABSOLUTE * wanted.scale:
            raise AssertionError(f"silently wrong: {name} has a relative error of {error / (size or 1.0):.1e}")


def assert_unchanged(before: dict[str, Tensor | None], leaves: dict[str, Tensor], error: Exception) -> None:
    """No gradient has changed, and the exception is one that helps: it is in words, and says what it is about."""
    message = str(error)
    assert "unexpected keyword argument" not in message, message  # of this version, not a refusal
    after = snapshot(leaves)
    for name, old in before.items():
        new = after[name]
        same = new is None if old is None else new is not None and torch.equal(new, old)
        assert same, f"raised after the gradient of {name} had changed: {message}"
    assert len(message.split()) > 3 and SUBJECTS.search(message), f"does not say what it is about: {error!r}"
