"""A backward pass is seen before it starts, whoever starts it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from proma_bench.backward.compiled import uncompiled

Handler = Callable[[Callable[..., None], list[Any], dict[str, Any]], None]

_LOCK = threading.Lock()
_handlers: tuple[Handler, ...] = ()  # of the microbatches under way, which may be those of several threads
_original = torch.autograd.backward


@contextmanager
def intercepted(handle: Handler) -> Iterator[None]:
    """In this context ``torch.autograd.backward``, which every ``loss.backward()`` calls, calls ``handle`` instead.

    It is called with the function itself (or the handler of a context around this one), with the tensors, and with the
    other arguments by name. There is no hook in torch for this: within a backward pass one cannot see where it came
    from.
    """
    _change(lambda handlers: (*handlers, handle))
    try:
        yield
    finally:
        _change(lambda handlers: tuple(other for other in handlers if other is not handle))


def _change(change: Callable[[tuple[Handler, ...]], tuple[Handler, ...]]) -> None:
    """Replace torch's function when the first context begins, and put it back when the last one ends."""
    global _handlers, _original
    with _LOCK:
        before, _handlers = _handlers, change(_handlers)
        if not before:
            _original = torch.autograd.backward
            torch.autograd.backward = _backward  # type: ignore[assignment]
        elif not _handlers:
            torch.autograd.backward = _original


@uncompiled
def _backward(
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
    _handled(_handlers)(roots, grad_tensors=given, **options)


def _handled(handlers: tuple[Handler, ...]) -> Callable[..., None]:
    """Torch's function, with these handlers around it."""
    if not handlers:
        return _original
    *others, handle = handlers

    def backward(roots: list[Any], **options: Any) -> None:
        handle(_handled(tuple(others)), roots, options)

    return backward
