"""A backward pass is seen before it starts, whoever starts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from proma_bench.backward.compiled import uncompiled


@contextmanager
def intercepted(handle: Callable[[Callable[..., None], list[Any], dict[str, Any]], None]) -> Iterator[None]:
    """In this context ``torch.autograd.backward``, which every ``loss.backward()`` calls, calls ``handle`` instead.

    It is called with the function itself, with the tensors, and with the other arguments by name. There is no hook in
    torch for this: within a backward pass one cannot see where it came from.
    """
    original = torch.autograd.backward

    @uncompiled
    def backward(
        tensors: Tensor | Sequence[Tensor],
        grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        grad_variables: Any = None,
        inputs: Any = None,
    ) -> None:
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        seeds = grad_tensors if grad_variables is None else grad_variables
        options = {"retain_graph": retain_graph, "create_graph": create_graph, "inputs": inputs}
        given = seeds if seeds is None or not isinstance(seeds, Tensor) else [seeds]
        handle(original, roots, {"grad_tensors": given, **options})

    torch.autograd.backward = backward  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.autograd.backward = original
