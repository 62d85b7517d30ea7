"""The type in which a language model computes, which need not be the type that it stores.

Weights, gradients and the optimizer's moments are always float32. Matrix products are bfloat16 if that is asked for, as
under autocast, and as in VeRL (the framework of the paper's run) through FSDP's mixed precision.
With weights *stored* in bfloat16 nothing would be trained: the next number after 0.02 is 1e-4 away, and a step of
AdamW at 2e-6 rounds to zero. The running gradient is a sum over many microbatches from which a projection is removed;
eight bits are not enough for that, either.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def computing_in(
    dtype: torch.dtype | None, device: torch.device, *, keep: bool = False
) -> AbstractContextManager[object]:
    """Matrix products of ``dtype`` in this context; None changes nothing.

    Args:
        dtype: of matrix products.
        device: where they are computed.
        keep: weights once converted stay until the end, half as much memory again: for generation, which uses each of
            them token after token. In training a weight is used once or twice, and converted each time.
    """
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype, cache_enabled=keep)
