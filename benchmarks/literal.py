"""Literal hooks: PROMA for ``nn.Linear`` as the author's published code builds it. The peer in every comparison.

Forward hooks clone the activations in float32. Full-backward hooks write out the weight gradient of one sequence after
another in a Python loop, normalise it, and subtract the running gradient's components along them in two sweeps over
whole matrices (or by QR of the stacked gradients). Autograd computes its own weight gradient all the same; it is thrown
away. Parameters other than linear weights keep the gradient of the loss without advantages, and of a weight that is
tied to an embedding only the head's part counts.

It is slow and plain, and so a check of the numbers of `proma_bench.Proma` as well as of its speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from proma_bench import ProjectionConfig

NORM_FLOOR = 1e-30  # a gradient of zero stays zero


class LiteralHooks:
    """Attaches to every ``nn.Linear`` of a module whose weight is trained. Each is called once a microbatch."""

    def __init__(self, module: nn.Module, config: ProjectionConfig) -> None:
        """Raises ValueError for a method other than ``iterative`` and ``qr``."""
        if config.method not in ("iterative", "qr"):
            raise ValueError(f"the literal hooks know the methods iterative and qr, not {config.method!r}")
        self.config = config
        self._layers = [m for m in module.modules() if isinstance(m, nn.Linear) and m.weight.requires_grad]
        self._inputs: dict[nn.Module, Tensor] = {}
        self._running: dict[Tensor, Tensor | None] = {}
        self._results: dict[Tensor, Tensor] = {}
        self._advantages: Tensor | None = None
        self._handles = [
            handle
            for layer in self._layers
            for handle in (
                layer.register_forward_hook(self._keep_input),
                layer.register_full_backward_hook(self._project),
            )
        ]

    @contextmanager
    def microbatch(self, advantages: Tensor) -> Iterator[None]:
        """``(-log_probs.sum()).backward()`` in here leaves the projected gradient in the ``grad`` of linear weights."""
        self._advantages = advantages
        for layer in self._layers:
            self._running[layer.weight] = layer.weight.grad
            layer.weight.grad = None  # autograd puts its own here
        yield
        for weight, gradient in self._results.items():
            weight.grad = gradient
        self._running.clear()
        self._results.clear()
        self._inputs.clear()

    def remove(self) -> None:
        """Detach."""
        for handle in self._handles:
            handle.remove()

    def _keep_input(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if torch.is_grad_enabled():
            self._inputs[layer] = args[0].detach().to(_wide(args[0].dtype), copy=True)

    def _project(self, layer: nn.Linear, _: object, grad_output: tuple[Tensor, ...]) -> None:
        weight, inputs, advantages = layer.weight, self._inputs.pop(layer), self._advantages
        assert advantages is not None, "a backward pass outside of `microbatch`"
        output_grads = grad_output[0].detach().to(inputs.dtype)
        seq_grads = [
            g.flatten(0, -2).T @ x.flatten(0, -2)
            for g, x in zip(output_grads.unsqueeze(1), inputs.unsqueeze(1), strict=True)
        ]
        running = self._running[weight]
        wide = None if running is None else running.to(inputs.dtype)
        self._results[weight] = accumulate(wide, seq_grads, advantages, self.config).to(weight.dtype)


def accumulate(
    running: Tensor | None, seq_grads: Sequence[Tensor], advantages: Tensor, config: ProjectionConfig
) -> Tensor:
    """One step ``A - rho sigma P_S A + g`` on whole matrices."""
    gradient = torch.zeros_like(seq_grads[0])
    for advantage, seq_grad in zip(advantages.to(gradient.dtype), seq_grads, strict=True):
        gradient += advantage * seq_grad
    if running is None:
        return gradient
    if config.method == "qr":
        left = project_by_qr(running, seq_grads)
    else:
        left = project_iteratively(running, seq_grads, config.sweeps)
    removed = running - left
    scale: float | Tensor = config.shrinkage
    if config.max_removed is not None:
        allowed = config.max_removed * gradient.norm()
        scale = scale * (allowed / removed.norm().clamp_min(NORM_FLOOR)).clamp_max(1.0)
    return running - scale * removed + gradient


def project_iteratively(running: Tensor, seq_grads: Sequence[Tensor], sweeps: int) -> Tensor:
    """Subtract the component along one unit gradient after another, in so many sweeps over all of them."""
    units = [seq_grad / seq_grad.norm().clamp_min(NORM_FLOOR) for seq_grad in seq_grads]
    left = running.clone()
    for _ in range(sweeps):
        for unit in units:
            left -= (left * unit).sum() * unit
    return left


def project_by_qr(running: Tensor, seq_grads: Sequence[Tensor]) -> Tensor:
    """Subtract the component in the span of the gradients, by QR of their stack. They must be independent."""
    basis, _ = torch.linalg.qr(torch.stack([seq_grad.flatten() for seq_grad in seq_grads], dim=1))
    flat = running.flatten()
    return (flat - basis @ (basis.T @ flat)).view_as(running)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
