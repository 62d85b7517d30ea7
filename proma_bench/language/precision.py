"""What numbers a language model computes in, apart from what it stores.

Weights, gradients and the optimizer's moments are float32 always, and matrix products are of bfloat16 where that is
asked for: what autocast does, and what VeRL (the framework of the paper's run) does through FSDP's mixed precision.
With weights *stored* in bfloat16 there would be nothing to train: its neighbours of 0.02 are 1e-4 away, and a step of
AdamW at 2e-6 rounds to nothing. The running gradient is a sum over many microbatches of which a projection is taken
out, for which eight bits are no better.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def computing_in(
    dtype: torch.dtype | None, device: torch.device, *, keep: bool = False
) -> AbstractContextManager[object]:
    """Matrix products of ``dtype`` in here; None leaves everything as it is.

    Args:
        dtype: of matrix products.
        device: where they are computed.
        keep: weights once converted stay until the end, half as much memory again: for generation, which uses each of
            them token after token. In training a weight is used once or twice, and converted each time.
    """
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype, cache_enabled=keep)
