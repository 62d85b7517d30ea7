"""Hooks that see whether a parameter receives the gradient that the engine has made, and no other."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

from torch import Tensor
from torch.utils.hooks import RemovableHandle


@runtime_checkable
class Watcher(Protocol):
    """Who wants to know."""

    def check_arrival(self, parameter: Tensor, gradient: Tensor) -> None:
        """A parameter has received this gradient; raise if it is a wrong one."""


class Guards:
    """Hooks on parameters that report to a watcher. They keep neither of them alive."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = weakref.ref(watcher)
        self._handles: list[RemovableHandle] = []

    def add(self, parameters: Iterable[Tensor]) -> None:
        """Watch these parameters, too."""
        for parameter in parameters:
            if parameter.requires_grad:
                hook = _guard(self._watcher, weakref.ref(parameter))
                self._handles.append(parameter.register_hook(hook))  # type: ignore[no-untyped-call]

    def remove(self) -> None:
        """Watch none any more."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _guard(watcher: weakref.ref[Watcher], parameter: weakref.ref[Tensor]) -> Callable[[Tensor | None], None]:
    def check(gradient: Tensor | None) -> None:
        own, tensor = watcher(), parameter()
        if own is not None and tensor is not None and gradient is not None:
            own.check_arrival(tensor, gradient)

    return check
