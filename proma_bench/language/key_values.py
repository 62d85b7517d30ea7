"""Key-value caches of a common prefix of many texts."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel


@torch.no_grad()
def cached(model: PreTrainedModel, tokens: Sequence[int]) -> DynamicCache:
    """Compute the key-value cache of one text.

    Args:
        model: the language model.
        tokens: the tokens of the text, which may be empty.

    Returns:
        The cache.
    """
    cache = DynamicCache(config=model.config)
    if len(tokens):
        ids = torch.tensor([list(tokens)], device=model.device)
        model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    return cache


def repeated(cache: DynamicCache, count: int) -> DynamicCache:
    """Copy a cache for a batch of texts. The original does not change.

    Args:
        cache: the cache of one text, or of a batch.
        count: number of copies of each text.

    Returns:
        The cache of the batch.
    """
    several = copy.deepcopy(cache)
    several.batch_repeat_interleave(count)
    return several
