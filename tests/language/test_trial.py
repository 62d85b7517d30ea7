"""A model that policy and sampler would not compute as its own forward pass does is refused before a run."""

import types

import policy_zoo
import pytest
import torch
import zoo
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from proma_bench.errors import UsageError
from proma_bench.language.key_values import can_share_beginnings
from proma_bench.language.trial import require_trainable


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("name", ["Qwen3ForCausalLM", "Gemma2ForCausalLM", "GPT2LMHeadModel"])
def test_a_model_that_is_computed_rightly_is_not_refused(name, packed):
    require_trainable(policy_zoo.built(name, torch.float32), packed)


@pytest.mark.parametrize(
    "name",
    [
        "MambaForCausalLM",
        "RwkvForCausalLM",
        "Lfm2MoeForCausalLM",
        "XLNetLMHeadModel",
        "BartForCausalLM",
        "MptForCausalLM",
    ],
)
def test_a_model_without_a_usual_cache_or_with_places_of_its_own_is_refused_by_name(name):
    with zoo.quiet(), pytest.raises(UsageError) as refusal:
        require_trainable(policy_zoo.built(name, torch.float32))
    message = str(refusal.value)
    assert message.startswith(f"{name} cannot be trained here: ") and "\n" not in message
    assert message.endswith("; take another model, for example Qwen3")


def test_attention_that_sees_later_tokens_is_refused():
    model = policy_zoo.built("BertLMHeadModel", torch.float32)
    require_trainable(model)
    for part in (model, *model.modules()):
        if hasattr(part, "is_causal"):
            part.is_causal = False
    model.config.is_decoder = False
    with zoo.quiet(), pytest.raises(UsageError, match="BertLMHeadModel cannot be trained here: "):
        require_trainable(model)


def test_a_last_step_that_needs_more_than_hidden_states_is_refused():
    model = policy_zoo.built("Qwen3ForCausalLM", torch.float32)
    forward = type(model).forward

    def pointing(self, input_ids, **options):
        output = forward(self, input_ids=input_ids, **options)
        copied = torch.nn.functional.one_hot(input_ids, output.logits.shape[-1])
        output.logits = output.logits + copied[:, -output.logits.shape[1] :]
        return output

    model.forward = types.MethodType(pointing, model)
    with pytest.raises(UsageError, match=r"a training pass differ from those of its own forward pass by up to \d"):
        require_trainable(model)


def test_noise_in_training_is_refused():
    model = policy_zoo.built("Qwen3ForCausalLM", torch.float32)
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.Sequential(layer.mlp.act_fn, torch.nn.Dropout(0.1))
    with pytest.raises(UsageError, match="log-probs of a training pass differ"):
        require_trainable(model)


def test_beginnings_are_not_shared_where_attention_has_a_window():
    assert can_share_beginnings(policy_zoo.built("Qwen3ForCausalLM"))
    window = GPTNeoConfig(
        vocab_size=64,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=3,
    )
    windowed = [policy_zoo.built(name, torch.float32) for name in ("MistralForCausalLM", "Gemma3ForCausalLM")]
    for model in (*windowed, GPTNeoForCausalLM(window)):
        assert not can_share_beginnings(model)
        require_trainable(model)
