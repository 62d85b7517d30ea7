"""What one call of a layer contributes to the sequence gradients of its parameters, by its rule, and what is wrong."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from proma_bench.backward.checks import check_recomputed, check_rule, recomputed_gradients, structure
from proma_bench.backward.factors import Dense, SequenceGrads
from proma_bench.backward.layout import Layout
from proma_bench.backward.taps import Layer


class Received(NamedTuple):
    """A layer has received the gradient of an output; ``output`` is kept only for rules that compute it again.

    ``module`` is the layer's, as it was when it was called.
    """

    layer: Layer
    module: nn.Module
    inputs: tuple[Any, ...]
    output: Tensor | None
    grad_output: Tensor


def contribution(received: Received, layout: Layout, *, is_distrusted: bool) -> dict[str, SequenceGrads]:
    """The sequence gradients of one call, by the names of the layer's parameters.

    Args:
        received: the call.
        layout: of the rows of its output.
        is_distrusted: take autograd's gradient, not the rule's. There must be one sequence then.

    Raises:
        ValueError: the rule fails, or is seen to be wrong.
    """
    layer, module, inputs, output, grad_output = received
    if is_distrusted:
        if output is not None and (problem := check_recomputed(module, inputs, output)):
            raise ValueError(f"{layer.title}: {problem}")
        gradients = recomputed_gradients(module, inputs, grad_output)
        return {name: Dense(gradient.unsqueeze(0)) for name, gradient in gradients.items()}
    seq_grads, problem = _by_rule(received, layout)
    if problem is not None:
        raise ValueError(f"{layer.title}: {problem}")
    return seq_grads


def contribution_problem(received: Received, layout: Layout) -> str | None:
    """What is wrong with the rule; None if nothing is."""
    return _by_rule(received, layout)[1]


def _by_rule(received: Received, layout: Layout) -> tuple[dict[str, SequenceGrads], str | None]:
    layer, module, inputs, output, grad_output = received
    try:
        if output is not None and (problem := check_recomputed(module, inputs, output)):
            return {}, problem
        seq_grads = layer.rule.function(module, inputs, grad_output, layout)
        return seq_grads, _check_once(received, seq_grads, layout)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a rule may be anybody's code
        lines = str(error).strip().splitlines() or ["no message"]
        name = getattr(layer.rule.function, "__name__", "")
        return {}, f"its rule {name!r} failed: {type(error).__name__}: {lines[0]}"


def _check_once(received: Received, seq_grads: dict[str, SequenceGrads], layout: Layout) -> str | None:
    """`check_rule`, once for each structure of the layer's arguments and modes."""
    layer, module, inputs, _, grad_output = received
    if layer.rule.trusted or layout.sequences == 1:  # the sum over a single sequence would prove nothing
        return None
    key = structure(module, inputs)
    if key in layer.checked or not bool(grad_output.any()):  # nor would zeros; asking waits for a GPU, so comes last
        return None
    problem = check_rule(module, inputs, grad_output, seq_grads, layout.sequences)
    if problem is None:
        layer.checked.add(key)
    return problem


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """No autocast: a caller's backward pass may run under it, but sums over sequences must not."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
