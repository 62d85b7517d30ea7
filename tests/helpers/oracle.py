"""The slow, obviously right way: one sequence at a time through plain autograd, then the literal projection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from proma_bench import ProjectionConfig


class Micro(NamedTuple):
    """A microbatch as a list of sequences: ``log_prob(module, i)`` is the log-prob of the i-th, alone."""

    log_prob: Callable[[nn.Module, int], Tensor]
    advantages: Tensor


def literal_step(running: Tensor | None, seq_grads: Tensor, advantages: Tensor, config: ProjectionConfig) -> Tensor:
    """``A - rho sigma P_S A + g``, written out on whole tensors in float64; shares nothing with the library.

    The exact projection takes the right singular vectors of the stacked, normalised gradients for a basis, without
    those whose singular value is rounding; the iterative one is the loop of the paper, one subtraction after another.
    """
    rows = seq_grads.double().reshape(len(seq_grads), -1)
    step = advantages.double() @ rows
    if running is None:
        return step.view(seq_grads.shape[1:]).to(seq_grads.dtype)
    before = running.double().flatten()
    norms = rows.norm(dim=1)
    units = rows[norms > 0] / norms[norms > 0].unsqueeze(1)
    removed = _removed(before, units, config)
    allowed = float("inf") if config.max_removed is None else config.max_removed * float(step.norm())
    rho = min(1.0, allowed / float(removed.norm())) if float(removed.norm()) > 0 else 1.0
    return (before - rho * config.shrinkage * removed + step).view(running.shape).to(running.dtype)


def _removed(before: Tensor, units: Tensor, config: ProjectionConfig) -> Tensor:
    if config.method == "iterative":
        left = before.clone()
        for _ in range(config.sweeps):
            for unit in units:
                left -= (left @ unit) * unit
        return before - left
    if config.method == "ridge":
        gram = units @ units.T + 0.01 * torch.eye(len(units), dtype=units.dtype)
        return torch.linalg.solve(gram, units @ before) @ units
    assert config.method == "exact", config.method
    _, singular, directions = torch.linalg.svd(units, full_matrices=False)
    basis = directions[singular > 1e-7 * singular.max()] if len(units) else units
    return (basis @ before) @ basis


def oracle_gradients(
    module: nn.Module,
    micros: Sequence[Micro],
    config: ProjectionConfig,
    before: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """What ``param.grad`` must be after these microbatches, by name, in the module's own type.

    before: what it was.
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    running: dict[str, Tensor | None] = dict.fromkeys(parameters) | dict(before or {})
    for micro in micros:
        rows = [
            torch.autograd.grad(-micro.log_prob(module, i), list(parameters.values()))
            for i in range(len(micro.advantages))
        ]
        for name, seq_grads in zip(parameters, map(torch.stack, zip(*rows, strict=True)), strict=True):
            advantages = micro.advantages.to(seq_grads.dtype)
            running[name] = literal_step(running[name], seq_grads, advantages, config)
    return {name: gradient for name, gradient in running.items() if gradient is not None}


def assert_gradients(module: nn.Module, expected: dict[str, Tensor], relative: float) -> None:
    """Every trainable parameter's gradient is the expected one, within ``relative`` of its norm."""
    found = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{name} is frozen and has a gradient"
            continue
        assert parameter.grad is not None, f"{name} has no gradient"
        found[name] = parameter.grad
    assert_near(found, {name: expected[name] for name in found}, relative)


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], relative: float) -> None:
    """The gradients have these names, and each is the expected one, within ``relative`` of its norm."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        error = float((found[name].double() - gradient.double()).norm() / gradient.double().norm())
        assert error <= relative, f"{name}: relative error {error:.2e}, allowed {relative:.0e}"


def without_dominant_part(gradient: Tensor, output_grads: Tensor, inputs: Tensor, rank: int) -> Tensor:
    """``g - U U' g V V'`` by full singular value decompositions, of the rows that have an output gradient.

    One that is 1e-14 of the largest is none: a query of a first token has 1e-16, where the theory says zero.
    """
    assert has_clear_cut(output_grads, inputs, rank), "rounding decides which directions are dominant"
    rows = _has_output_grad(output_grads)
    (_, _, left), (_, _, right) = (torch.linalg.svd(side[rows], full_matrices=False) for side in (output_grads, inputs))
    left, right = left[:rank].T @ left[:rank], right[:rank].T @ right[:rank]
    return gradient - left @ gradient @ right


def has_clear_cut(output_grads: Tensor, inputs: Tensor, rank: int) -> bool:
    """Whether the first ``rank`` singular values of either side are well above the others, or are rounding.

    Rounding turns the directions at the cut by about ``eps largest^2 / (last^2 - next^2)``. They carry ``last`` of the
    rows, so results move by about ``eps^(3/4)`` at most.
    """
    rows = _has_output_grad(output_grads)
    return all(_is_clear(torch.linalg.svdvals(side[rows]), rank) for side in (output_grads, inputs))


def _is_clear(values: Tensor, rank: int) -> bool:
    if not 0 < rank < len(values):
        return True
    eps = torch.finfo(values.dtype).eps
    largest, last, following = values[0], values[rank - 1], values[rank]
    return bool(last <= 64 * eps * largest or last.square() - following.square() >= eps**0.25 * largest * last)


def _has_output_grad(output_grads: Tensor) -> Tensor:
    sizes = output_grads.norm(dim=1)
    return sizes > 45 * torch.finfo(sizes.dtype).eps * sizes.max() if len(sizes) else sizes > 0


def intra_gradients(module: nn.Module, micros: Sequence[Micro], config: ProjectionConfig) -> dict[str, Tensor]:
    """What ``param.grad`` must be after these microbatches of the intra method: factors by hooks, and full SVDs."""
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for micro in micros:
        factors: dict[Tensor, list[tuple[Tensor, Tensor, Tensor]]] = {}
        for i, advantage in enumerate(micro.advantages):
            with _factors_of_linear_layers(module) as found:
                gradients = torch.autograd.grad(micro.log_prob(module, i), list(parameters.values()))
            for name, gradient in zip(parameters, gradients, strict=True):
                total[name] -= advantage * gradient
            for weight, output_grads, inputs in found:
                factors.setdefault(weight, []).append((advantage * output_grads, output_grads, inputs))
        for name, parameter in parameters.items():
            if parameter in factors:
                weighted, output_grads, inputs = map(torch.cat, zip(*factors[parameter], strict=True))
                gradient = -weighted.T @ inputs
                removed = gradient - without_dominant_part(gradient, output_grads, inputs, config.rank)
                total[name] -= config.shrinkage * removed
    return total


@contextmanager
def _factors_of_linear_layers(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """(weight, output gradients [N, out], inputs [N, in]) of every call of a linear layer, once gradients have come."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows = inputs[0].detach().flatten(0, -2)
        output.register_hook(lambda grad: found.append((layer.weight, grad.flatten(0, -2), rows)))

    handles = [layer.register_forward_hook(note) for layer in module.modules() if isinstance(layer, nn.Linear)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
