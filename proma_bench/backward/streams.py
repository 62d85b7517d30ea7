"""Streams: the queues of work of a device.

Autograd runs a node on the stream on which its forward pass was, and lets nodes of other streams wait for the gradients
that it returns. The taps return none to the gates, so nothing would make a gate of another stream wait for them.
Therefore a gate belongs to one stream, and a microbatch uses one stream of each device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

Stream = tuple[torch.device, int]
"""A device, and the number of its stream."""


def current_stream(device: torch.device) -> Stream:
    """The stream on which this thread puts work for the device."""
    accelerator = None if device.type == "cpu" else torch.accelerator.current_accelerator()
    if accelerator is None or accelerator.type != device.type:
        return device, 0  # it has one
    return device, torch.accelerator.current_stream(device).stream_id


Use = tuple[Tensor, Stream]
"""A parameter, and on which stream it is used."""


def use_of(parameter: Tensor) -> Use:
    """The parameter on the current stream."""
    return parameter, current_stream(parameter.device)


def require_current(streams: Iterable[Stream]) -> None:
    """Require that work on these streams is on the current ones.

    Raises:
        ValueError: it is not.
    """
    if any(stream != current_stream(stream[0]) for stream in set(streams)):
        raise ValueError(
            "the module's forward pass of this microbatch was not all on the stream on which backward() is called, and "
            "a microbatch must use one stream of each device; put both into the same `with torch.cuda.stream(...)`"
        )


def is_captured(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured: work for the device is only noted, and no number is known."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def require_known(gates: Iterable[Any]) -> None:
    """A microbatch is about to be verified, which looks at numbers.

    Raises:
        ValueError: it is being captured.
    """
    if any(is_captured(gate.stream[0]) for gate in gates):
        raise ValueError(
            "a microbatch cannot be captured as a CUDA graph before one of the same structure has been verified, nor "
            "where rows move with the data; take one like it first, without a graph"
        )
