"""Key-value caches: of a common beginning of many texts, and of texts that grow token by token."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from proma_bench.language.models import accepted

BLOCK = 16
"""Number of tokens for which a cache that grows gets new memory."""


def can_share_beginnings(model: PreTrainedModel) -> bool:
    """Whether texts may start from the cache of a common beginning, with padding between it and their own tokens.

    Where attention has a window, padding inside of a text takes the places of tokens.

    Args:
        model: the language model.
    """
    config = model.config.get_text_config()
    sizes = [value for name, value in vars(config).items() if name.endswith(("window", "window_size"))]
    return not any(DynamicCache(config=model.config).is_sliding) and not any(type(size) is int for size in sizes)


@torch.no_grad()
def cached(model: PreTrainedModel, tokens: Int[Tensor, " n"]) -> DynamicCache:
    """Compute the key-value cache of one text.

    Args:
        model: the language model.
        tokens: the tokens of the text, which may be empty.

    Returns:
        The cache.
    """
    cache = DynamicCache(config=model.config)
    if len(tokens):
        ids = tokens.to(model.device).unsqueeze(0)
        model(input_ids=ids, past_key_values=cache, use_cache=True, **accepted(model, logits_to_keep=1))
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


def make_growing(cache: DynamicCache) -> None:
    """Prepare a cache for many single tokens: it then grows in blocks, in which new tokens are written in place.

    Otherwise, each token would copy the whole cache. Layers of other kinds, such as those with a window, stay as they
    are. Such a cache is for passes without gradients.

    Args:
        cache: the cache of a batch. It changes.
    """
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[index] = _GrowingLayer(layer)


class _GrowingLayer(DynamicLayer):
    """Keys and values at the beginning of longer tensors, whose rest is free."""

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        vars(self).update(vars(layer))
        self._longer: list[Tensor] = []
        self._capacity = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        start, count = self.get_seq_length(), key_states.shape[-2]
        if start + count > self._capacity:
            self._capacity = start + count + BLOCK - 1
            self._longer = [_with_room(states, self._capacity) for states in (self.keys, self.values)]
        for longer, states in zip(self._longer, (key_states, value_states), strict=True):
            longer.narrow(2, start, count).copy_(states)
        self.keys, self.values = (longer.narrow(2, 0, start + count) for longer in self._longer)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._longer, self._capacity = [], 0  # what is kept was copied, and has no free memory behind it


def _with_room(states: Float[Tensor, "R heads n size"], capacity: int) -> Float[Tensor, "R heads capacity size"]:
    rows, heads, length, size = states.shape
    longer = states.new_empty(rows, heads, capacity, size)
    longer.narrow(2, 0, length).copy_(states)
    return longer


def next_logits(
    model: PreTrainedModel, tokens: Int[Tensor, "R n"], seen: Bool[Tensor, "R m"], cache: DynamicCache
) -> Float[Tensor, "R vocabulary"]:
    """The logits after the last of some tokens, which are added to the cache.

    Args:
        model: the language model.
        tokens: the next n tokens of each text.
        seen: which positions are no padding; m is the number of positions in the cache and of tokens together.
        cache: the cache of the positions before.

    Returns:
        The logits.
    """
    positions = (seen.long().cumsum(1) - 1).clamp_min(0)[:, -tokens.shape[1] :]
    output = model(
        input_ids=tokens,
        attention_mask=seen.long(),
        past_key_values=cache,
        use_cache=True,
        **accepted(model, position_ids=positions, logits_to_keep=1),
    )
    logits: Tensor = output.logits[:, -1].float()
    return logits
