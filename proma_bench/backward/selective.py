"""Selective activation checkpoints (`torch.utils.checkpoint.create_selective_checkpoint_contexts`)."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.checkpoint import _CachedTorchDispatchMode, _CachingTorchDispatchMode


def is_stored() -> bool:
    """Whether a selective checkpoint keeps what is computed now, or gives what it has kept."""
    modes = _get_current_dispatch_mode_stack() if torch._C._len_torch_dispatch_stack() else ()
    return any(isinstance(mode, _CachingTorchDispatchMode | _CachedTorchDispatchMode) for mode in modes)
