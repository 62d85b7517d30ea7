"""Key-value caches of a beginning that many texts share."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel


@torch.no_grad()
def cached(model: PreTrainedModel, tokens: Sequence[int]) -> DynamicCache:
    """The key-value cache of one text, which may be empty."""
    cache = DynamicCache(config=model.config)
    if len(tokens):
        ids = torch.tensor([list(tokens)], device=model.device)
        model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    return cache


def repeated(cache: DynamicCache, count: int) -> DynamicCache:
    """A copy for ``count`` sequences; the original can be used again."""
    several = copy.deepcopy(cache)
    several.batch_repeat_interleave(count)
    return several
