"""A module's parameters during a backward pass: their names, and where their running gradients are.

Under `fully_shard` (FSDP2) a parameter is two tensors. The sharded one is the optimizer's; the unsharded one is what
layers use and what autograd gives a gradient to, and it is made in the first forward pass. As long as gradients are not
synchronised, the local sum stays with it: in its ``grad``, or in FSDP's ``unsharded_accumulated_grad`` where gradients
are reduced in another type. Synchronising makes it the average over ranks, of which each rank keeps a shard. In both
cases the engine returns what is new to autograd, and FSDP does the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch.distributed
from torch import Tensor, nn


class _Sharded(NamedTuple):
    """FSDP2's records of a parameter (FSDPParam), and of the group that it gathers and reduces together."""

    parameter: Any
    group: Any

    @property
    def registered(self) -> Tensor:
        """The tensor that layers find at the moment."""
        info = self.parameter._module_info
        tensor: Tensor = info.module._parameters[info.param_name]
        return tensor

    @property
    def optimized(self) -> Tensor:
        """The optimizer's. Tied weights share it, even if different modules hold them."""
        from torch.distributed.tensor import DTensor

        if isinstance(self.registered, DTensor):
            return self.registered  # FSDP2 may not have noticed yet what was tied since
        sharded: Tensor = self.parameter.sharded_param
        return sharded

    @property
    def unsharded(self) -> Tensor | None:
        """The whole parameter, once it has been gathered."""
        return getattr(self.parameter, "_unsharded_param", None)

    @property
    def is_reduced(self) -> bool:
        """Whether a gradient has been summed over ranks."""
        return self.parameter.sharded_param.grad is not None or self.group._partial_reduce_output is not None


class Parameters:
    """The parameters of one module.

    Raises:
        ValueError: a parameter is complex, or a rank does not see a whole one and its own gradient: FSDP1, and DTensors
            other than those of
            `fully_shard`.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
        self._sharded: dict[str, list[_Sharded]] = {}
        self._unsharded: dict[Tensor, _Sharded] = {}
        self._first: dict[str, Tensor] = {}
        for parameter, name in self._names.items():
            if nn.parameter.is_lazy(parameter):
                raise ValueError(f"parameter {name!r} has no shape yet; run the module once before attaching")
            if parameter.is_complex():
                raise ValueError(f"parameter {name!r} is complex; sequence gradients are for real parameters")
        if is_distributed():
            self._note_sharded()
            self._refuse_what_is_not_whole()
            self._note_unsharded()

    def __iter__(self) -> Iterator[Tensor]:
        """The tensors that are known so far."""
        return iter(self._names)

    @property
    def is_sharded(self) -> bool:
        """Whether `fully_shard` manages them."""
        return bool(self._sharded)

    def find(self, parameter: Tensor) -> bool:
        """Whether it is one of the module's, also one that took the place of another since."""
        if parameter not in self._names:
            for name, found in self._module.named_parameters():
                self._names.setdefault(found, name)
        return parameter in self._names

    def name(self, parameter: Tensor) -> str:
        """The parameter's name in the module."""
        return self._names.get(parameter, "(no longer in the module)")

    def meet(self, parameter: Tensor) -> list[Tensor]:
        """A layer is about to use this parameter: the unsharded ones that have appeared since the last call.

        Raises:
            RuntimeError: the module was sharded after Proma was attached.
        """
        if parameter in self._names:
            return []
        found = self._note_unsharded()
        is_new = parameter not in self._names
        if is_new and is_distributed() and len(_fully_sharded(self._module)) > sum(map(len, self._sharded.values())):
            raise RuntimeError("fully_shard was applied after Proma was attached; attach Proma after it")
        return [parameter] if is_new and self.find(parameter) else found

    def canonical(self, parameter: Tensor) -> Tensor:
        """The tensor that stands for the parameter. FSDP2 gathers two of a weight that modules of two groups share."""
        return self._first.get(self.name(parameter), parameter)

    def running(self, parameter: Tensor) -> Tensor | None:
        """The running gradient of this rank, None if there is none yet.

        Raises:
            RuntimeError: it has already been reduced over ranks.
        """
        sharded = self._unsharded.get(parameter)
        if sharded is None:
            return parameter.grad
        if sharded.is_reduced:
            raise RuntimeError(
                f"the gradient of parameter {self.name(parameter)!r} has been synchronised before the last microbatch, "
                "and a rank holds only a shard of it; call set_requires_gradient_sync(False) on the module that "
                "fully_shard was applied to until the last one, and zero_grad after the optimizer step"
            )
        accumulated: Tensor | None = sharded.parameter.unsharded_accumulated_grad
        return parameter.grad if accumulated is None else accumulated

    def _note_sharded(self) -> None:
        order = {parameter: number for number, parameter in enumerate(self._names)}
        names: dict[Tensor, str] = {}  # by the optimizer's tensor
        for sharded in sorted(_fully_sharded(self._module), key=lambda sharded: order[sharded.registered]):
            name = names.setdefault(sharded.optimized, self._names[sharded.registered])
            self._names[sharded.registered] = name
            self._sharded.setdefault(name, []).append(sharded)

    def _note_unsharded(self) -> list[Tensor]:
        found = []
        for name, uses in self._sharded.items():
            for sharded in uses:
                parameter = sharded.unsharded
                if parameter is not None and parameter not in self._unsharded:
                    self._unsharded[parameter], self._names[parameter] = sharded, name
                    self._first.setdefault(name, parameter)
                    found.append(parameter)
        return found

    def _refuse_what_is_not_whole(self) -> None:
        from torch.distributed.fsdp import FullyShardedDataParallel
        from torch.distributed.tensor import DTensor

        if any(isinstance(module, FullyShardedDataParallel) for module in self._module.modules()):
            raise ValueError("FullyShardedDataParallel (FSDP1) flattens parameters; use fully_shard (FSDP2) instead")
        for parameter, name in self._names.items():
            is_whole = name in self._sharded and not any(use.parameter.is_dtensor for use in self._sharded[name])
            if isinstance(parameter, DTensor) and not is_whole:
                raise ValueError(
                    f"parameter {name!r} is a DTensor that no module in here has from fully_shard alone; attach Proma "
                    "to the whole module that fully_shard was applied to, and leave out tensor parallelism"
                )


def is_distributed() -> bool:
    """Whether there are other processes; without them nothing is replicated or sharded."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_watched(parameter: Tensor) -> bool:
    """Whether someone may want to see the gradient arrive, so that it must be returned to autograd.

    DistributedDataParallel and FSDP2 watch from places that cannot be inspected, so any process group counts.
    """
    if is_distributed():
        return True
    hooks = len(parameter._backward_hooks or ()) - 1  # one is our guard
    movable = parameter.grad is None or parameter.grad.is_contiguous()
    return hooks > 0 or bool(parameter._post_accumulate_grad_hooks) or not movable


def _fully_sharded(module: nn.Module) -> list[_Sharded]:
    """The parameters that FSDP2 manages."""
    from torch.distributed.fsdp import FSDPModule

    states = {child._get_fsdp_state(): None for child in module.modules() if isinstance(child, FSDPModule)}
    groups = (group for state in states for group in _groups(state))
    return [_Sharded(parameter, group) for group in groups for parameter in group.fsdp_params]


def _groups(state: Any) -> Iterable[Any]:
    if hasattr(state, "_fsdp_param_groups"):
        groups: Iterable[Any] = state._fsdp_param_groups
        return groups
    return [state._fsdp_param_group] if state._fsdp_param_group is not None else []  # older versions of torch
