"""A pretend accelerator: tensors on a device of their own that compute on the CPU, and a note of each wait for it.

Autograd runs what is on the device in the device's own thread, operations refuse tensors of another device, and what
would make the CPU wait for a real device is noted with the line that did it. It must be installed before the first
backward pass of a process, which decides what threads autograd has.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"


class Wait(NamedTuple):
    """Something for which the CPU would have waited for the device.

    Attributes:
        operation: what it was.
        place: the line of the package, or of transformers or torch, that asked for it.
        in_backward: whether autograd was at work.
    """

    operation: str
    place: str
    in_backward: bool


_WAITING = frozenset(
    """_local_scalar_dense equal nonzero masked_select _unique _unique2 unique_dim unique_consecutive
    unique_dim_consecutive bincount histc mode repeat_interleave
    _linalg_check_errors _linalg_eigh _linalg_svd _linalg_eigvals linalg_eig linalg_eigvals linalg_qr geqrf
    linalg_lstsq linalg_pinv allclose isin""".split()
)
"""Operations whose shape, or whose success, the CPU must know. Those that check others consist of ``..._ex`` and of
``_linalg_check_errors``."""
_COPYING = frozenset(("copy_", "_to_copy", "_copy_from", "set_"))
_INDEXING = frozenset(("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"))

_WHOLE = """copy_ arange arange.start arange.start_step eye eye.m linspace randperm randperm.generator""".split()
"""Operations that would otherwise go past subclasses, or resize what they have made."""

_waits: list[Wait] = []
_threads: set[str] = set()


@contextmanager
def noted() -> Iterator[list[Wait]]:
    """What the CPU waits for in this context."""
    kept = _waits.copy()
    _waits.clear()
    found: list[Wait] = []
    try:
        yield found
    finally:
        found += _waits
        _waits[:] = kept


class Work(NamedTuple):
    """An operation, with where its arguments are."""

    operation: Any
    args: Any
    kwargs: Any

    def __call__(self) -> Any:
        return self.operation(*self.args, **self.kwargs)


_tape: list[tuple[Work, Any]] | None = None


@contextmanager
def captured() -> Iterator[list[tuple[Work, Any]]]:
    """All work for the device in this context, and where its results are, as a CUDA graph has it."""
    global _tape
    _tape = []
    try:
        yield _tape
    finally:
        _tape = None


def replay(tape: list[tuple[Work, Any]]) -> None:
    """The same work again, with the numbers that are now where its arguments were."""
    for work, returned in tape:
        for old, new in zip(tree_leaves(returned), tree_leaves(work()), strict=True):
            if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                old.copy_(new)


class OnDevice(Tensor):
    """A tensor on the device; ``content`` is where its numbers are."""

    content: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, content: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            content.shape,
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            device=torch.device(NAME, 0),
        )
        made.content = content
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, *args, **(kwargs or {}))

    def tolist(self) -> Any:  # it would read the memory itself
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnDevice({self.content!r})"


def _run(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """One operation on tensors of which some are on the device, or that makes one there."""
    name = operation._schema.name.split("::")[1]
    given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    is_on_device = any(isinstance(value, OnDevice) for value in given)
    _threads.add(threading.current_thread().name)
    _require_one_device(name, args, given)
    if _waits_for_device(name, args, kwargs):
        _waits.append(Wait(name, *_where()))
    if (device := kwargs.get("device")) is not None:
        is_on_device = torch.device(device).type == NAME
        kwargs["device"] = torch.device("cpu")
    if name == "copy_":
        is_on_device = isinstance(args[0], OnDevice)
    kwargs.pop("pin_memory", None)
    wrappers = {id(_content(value)): value for value in given}  # for operations in place
    work = Work(operation, tree_map(_content, args), tree_map(_content, kwargs))
    returned = work()
    if _tape is not None and (is_on_device or given):
        _tape.append((work, returned))

    for value in given:
        assert _content(value).shape == value.shape, f"{name} has resized a tensor, which cannot be followed"

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or id(value) in wrappers:
            return wrappers.get(id(value), value)
        return OnDevice(value) if is_on_device else value

    return tree_map(wrapped, returned)


def _content(value: Any) -> Any:
    return value.content if isinstance(value, OnDevice) else value


def _require_one_device(name: str, args: Any, given: list[Tensor]) -> None:
    """Scalars may be anywhere, and so may indices, which are copied."""
    if name in _COPYING or not any(isinstance(value, OnDevice) for value in given):
        return
    elsewhere = [value for value in given if not isinstance(value, OnDevice) and value.ndim > 0]
    if name in _INDEXING and isinstance(args[0], OnDevice):
        elsewhere = [value for value in elsewhere if not any(value is index for index in args[1])]
    if elsewhere:
        shapes = [list(value.shape) for value in elsewhere]
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} got some of {shapes} on the CPU")


def _waits_for_device(name: str, args: Any, kwargs: Any) -> bool:
    if name in _COPYING and args[0].numel() == 0:
        return False
    if name == "_to_copy":
        return _crosses(args[0].device, kwargs.get("device")) and not kwargs.get("non_blocking", False)
    if name == "copy_":
        non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        return _crosses(args[1].device, args[0].device) and not non_blocking
    if not any(isinstance(value, OnDevice) for value in tree_leaves((args, kwargs))):
        return False
    if name in _INDEXING:
        indices = [index for index in args[1] if index is not None]
        return any(index.dtype in (torch.bool, torch.uint8) or not isinstance(index, OnDevice) for index in indices)
    return name in _WAITING or kwargs.get("check_errors", False)


def _crosses(source: torch.device, target: torch.device | str | None) -> bool:
    return target is not None and source.type != torch.device(target).type


def _where() -> tuple[str, bool]:
    """The place of a wait, and whether it is in a backward pass: in autograd's thread, or called by it."""
    place, in_backward = "", threading.current_thread() is not threading.main_thread()
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if any(f"/{package}/" in name for package in ("proma_bench", "transformers", "torch/optim")):
            place = place or f"{'/'.join(name.split('/')[-3:])}:{frame.f_lineno}"
        in_backward = in_backward or frame.f_code.co_name == "_engine_run_backward"
        frame = frame.f_back
    return place, in_backward


class _Module(backend_registration._DummyBackendModule):  # type: ignore[name-defined, misc]
    """What is ``torch.cuda`` for CUDA."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_libraries: list[torch.library.Library] = []  # what is registered lasts as long as they do


@functools.cache
def device() -> torch.device:
    """The device; it is installed by the first call."""
    _install()
    _require_thread()
    return torch.device(NAME, 0)


@functools.cache
def _install() -> None:
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())  # type: ignore[attr-defined]
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(_run, "PrivateUse1")  # type: ignore[no-untyped-call]
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    single = torch.library.Library("aten", "IMPL")
    for name in _WHOLE:
        single.impl(name, functools.partial(_run, _overload(name)), "PrivateUse1")
    for name in ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention"):
        single.impl(name, _in_autocast_type(_overload(name)), "AutocastPrivateUse1")
    _libraries.extend((everything, single))


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _require_thread() -> None:
    one = torch.ones((), device=NAME, requires_grad=True)
    try:
        (2 * one).backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        message = "there was a backward pass before the device was there; run pytest -m accelerator by itself"
        raise RuntimeError(message) from error
    _threads.clear()


def _in_autocast_type(operation: Any) -> Any:
    def cast(value: Any) -> Any:
        is_float = isinstance(value, OnDevice) and value.is_floating_point() and value.dtype != torch.float64
        return value.to(torch.get_autocast_dtype(NAME)) if is_float else value

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(NAME, enabled=False):
            return operation(*tree_map(cast, args), **tree_map(cast, kwargs))

    return run
