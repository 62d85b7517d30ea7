"""A cache that grows in blocks: the same answers as from one that is copied at every token, without the copies."""

import itertools

import pytest
import torch
from transformers import DynamicCache

from proma_bench.language.key_values import BLOCK, make_growing
from proma_bench.language.sampling import huggingface
from proma_bench.language.sampling.huggingface import HuggingFaceSampler
from proma_bench.tiers.transformer.tier import tiny_qwen3

PROMPTS = [[5, 6], [1, 2, 4, 5, 9], [8]]
LIMIT = 2 * BLOCK + 5


@pytest.fixture(scope="module")
def model():
    return tiny_qwen3(12, 64)


def filled(model, tokens=3, rows=4):
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.arange(rows * tokens).view(rows, tokens) % 12, past_key_values=cache)
    return cache


@pytest.mark.parametrize("ends", [[], [0, 3]])
@pytest.mark.parametrize("seed", [0, None])
def test_answers_and_log_probs_are_those_of_a_copied_cache(model, ends, seed, monkeypatch):
    """To the bit; also when answers that have ended are removed between blocks."""

    def sample():
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return HuggingFaceSampler(model, ends, LIMIT).sample(PROMPTS, 6, generator)

    ours = sample()
    monkeypatch.setattr(huggingface, "make_growing", lambda cache: None)
    theirs = sample()
    assert torch.equal(ours.answers, theirs.answers)
    assert torch.equal(ours.log_probs, theirs.log_probs)


def test_a_token_is_written_in_place(model):
    """Memory moves once for each block."""
    cache, places = filled(model), []
    make_growing(cache)
    with torch.no_grad():
        for _ in range(3 * BLOCK):
            model(input_ids=torch.ones(4, 1, dtype=torch.long), past_key_values=cache)
            places.append(cache.layers[0].keys.data_ptr())
    assert sum(first != second for first, second in itertools.pairwise(places)) == 2
    assert cache.get_seq_length() == 3 + 3 * BLOCK


def test_removed_rows_are_not_kept_in_memory(model):
    cache = filled(model)
    make_growing(cache)
    one = torch.ones(4, 1, dtype=torch.long)
    with torch.no_grad():
        model(input_ids=one, past_key_values=cache)
        cache.batch_select_indices(torch.tensor([2]))
    layer = cache.layers[0]
    held = [tensor.untyped_storage().nbytes() for tensor in (layer.keys, layer.values, *layer._longer)]
    assert sum(held) == layer.keys.nbytes + layer.values.nbytes


def test_a_model_with_a_window_keeps_its_own_layers(model):
    cache = filled(model)
    kept = cache.layers[0] = type("Windowed", (type(cache.layers[0]),), {})()
    make_growing(cache)
    assert cache.layers[0] is kept
    assert type(cache.layers[1]) is not DynamicCache(config=model.config).layers[1]
