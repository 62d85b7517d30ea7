"""The type in which a language model computes, which can differ from the type of its weights.

Weights, gradients and the optimizer's moments are always float32. Matrix products can be computed in bfloat16, with
torch's autocast; VeRL (the framework of the paper's run) does the same by FSDP's mixed precision.

If the weights were *stored* in bfloat16, they would not change: the next number after 0.02 is 1e-4 away, so a step of
AdamW at 2e-6 rounds to zero. Eight bits are also not enough for the running gradient, which is a sum over many
microbatches from which a projection is removed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def computing_in(
    dtype: torch.dtype | None, device: torch.device, *, keep: bool = False
) -> AbstractContextManager[object]:
    """Compute matrix products in a type.

    Args:
        dtype: the type; None changes nothing.
        device: the device of the computation.
        keep: keep converted weights until the end. It takes half as much memory again, and is for generation, which
            uses each weight for every token. In training, weights are converted at each of their few uses.

    Returns:
        A context manager.
    """
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype, cache_enabled=keep)
