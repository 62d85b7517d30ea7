"""A tiny configuration for any configuration class of transformers: sizes are shrunk by their usual names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

VOCABULARY = 64
HIDDEN, HEADS, HEAD = 32, 4, 8  # attention is as wide as the model; half of a head still has two rotary pairs

SIZES: dict[int, str] = {
    1: """first_k_dense_replace moe_layer_start_index num_dense_layers num_shared_experts n_shared_experts
        moe_num_shared_experts num_mem_blocks layer_group_size topk_group moe_topk_group num_nextn_predict_layers
        expert_layer_offset attn_layer_offset num_random_blocks interleave_moe_layer_step""",
    2: """num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_encoder_layers
        num_decoder_layers num_key_value_heads num_kv_heads multi_query_group_num swa_num_key_value_heads
        num_experts_per_tok num_experts_per_token moe_topk moe_k n_group num_expert_group n_groups num_query_groups
        attn_layer_period expert_layer_period decoder_sparse_step mamba_n_groups mamba_ngroups index_n_heads
        index_topk_blocks o_groups num_global_key_value_heads linear_num_key_heads heads_per_ngram layers
        zero_expert_num max_window_layers pretraining_tp hc_count hc_mult num_codebooks n_mamba_heads""",
    3: "sliding_window sliding_window_size attention_window_size window_size local_attention index_topk",
    4: """num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads attention_heads
        num_encoder_attention_heads num_decoder_attention_heads num_attention_heads_per_layer
        swa_num_attention_heads num_experts n_routed_experts
        num_local_experts moe_num_experts linear_num_value_heads linear_num_heads attention_chunk_size chunk_size
        mamba_chunk_size index_block_size block_size laurel_rank patch_size""",
    HEAD: """head_dim swa_head_dim global_head_dim qk_nope_head_dim qk_rope_head_dim v_head_dim swa_v_head_dim
        index_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim attention_head_size d_head d_kv d_rel
        rotary_dim kv_lora_rank q_lora_rank o_lora_rank kv_channels dim_head mamba_d_state ssm_state_size state_size
        mamba_d_head mamba_head_dim mamba_headdim mamba_n_heads mamba_num_heads mamba_dt_rank time_step_rank
        adapter_rank gated_norm_rank hc_lowrank dim_model_base query_pre_attn_scalar router_hidden_size
        hidden_size_per_layer_input prompt_length embedding_size num_buckets attention_head_dim""",
    24: """intermediate_size moe_intermediate_size shared_expert_intermediate_size dense_intermediate_size
        moe_shared_expert_intermediate_size shared_experts_intermediate_size shared_intermediate_size
        intermediate_size_mlp expert_ffn_hidden_size ffn_hidden_size ffn_dim decoder_ffn_dim encoder_ffn_dim dim_ff dff
        d_inner n_inner feed_forward_size expert_intermediate_size moe_ffn_hidden_size centroid_intermediate_top_k""",
    HIDDEN: """hidden_size d_model n_embd emb_dim embedding_dim lru_width word_embed_proj_dim ple_embed_dim
        backbone_hidden_size image_size out_hidden_size projection_dim vision_output_dim projector_input_dim
        projector_output_dim input_embedding_size output_embedding_size
        ext_pw_out_channel depthwise_separable_out_channel nemo_conv_channels""",
    VOCABULARY: """attention_hidden_size mamba_d_ssm max_position_embeddings n_positions n_ctx context_length
        max_seq_len max_source_positions max_target_positions position_bias_num_buckets num_centroids
        ngram_vocab_size_base encoder_hash_byte_group_vocab model_max_length pronunciation_vocab_size
        shape_vocab_size make_ngram_vocab_size_divisible_by vocab_size unpadded_vocab_size decoder_vocab_size
        vocab_size_per_layer_input original_max_position_embeddings""",
}
SIZE_OF = {name: size for size, names in SIZES.items() for name in names.split()}
LAST_STEP = {
    "logit_scale": 0.3,
    "logits_scaling": 3.0,
    "lm_head_multiplier": 0.3,
    "logits_mup_width_multiplier": 3.0,
    "final_logit_softcapping": 2.0,
    "logits_soft_cap": 2.0,
    "output_logit_soft_cap": 2.0,
}
"""What models do between the head and their logits; the defaults of many do nothing."""
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}

SPECIAL: dict[str, dict[str, Any]] = {
    "BltConfig": {"encoder_hash_byte_group_size": [3, 4]},
    "BltGlobalTransformerConfig": {"hidden_size": 2 * HIDDEN, "num_attention_heads": 8, "num_key_value_heads": 8},
    "BltLocalEncoderConfig": {"hidden_size_global": 2 * HIDDEN},
    "BltLocalDecoderConfig": {"hidden_size_global": 2 * HIDDEN},
    "CohereCompassTextConfig": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")
        }
    },
    "DeepseekV2Config": {"num_experts_per_tok": 2},
    "Dots1Config": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "Dots3NoteTextConfig": {
        "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": HEADS,
        "swa_q_lora_rank": HEAD,
        "swa_kv_lora_rank": HEAD,
        "swa_qk_nope_head_dim": HEAD,
        "swa_qk_rope_head_dim": HEAD,
        "swa_v_head_dim": HEAD,
        "swa_head_dim": 2 * HEAD,
    },
    "Gemma3nTextConfig": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0],
        "intermediate_size": [24] * 4,
        "num_kv_shared_layers": 2,
    },
    "HunYuanMoEV1Config": {"num_experts": 4, "moe_topk": 2},
    "Lfm2MoeConfig": {"layer_types": ["conv", "full_attention"]},
    "Mamba2Config": {"num_heads": 8},
    "NemotronConfig": {"num_key_value_heads": 2},
    "MusicgenDecoderConfig": {"num_codebooks": 1},
    "MusicgenMelodyDecoderConfig": {"num_codebooks": 1},
    "Qwen4ExpTextConfig": {
        "layer_types": ["linear_attention", "indexed_attention"],
        "ple_layer_ids": [1],
        "split_ngram_parts": 2,
        "eos_token_id": 2,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": HEAD,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
    },
    "XmodConfig": {"languages": ["en_XX"], "default_language": "en_XX"},
    "ZambaConfig": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "Zamba2Config": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_head_dim": 2 * HEAD,
        "mamba_headdim": HIDDEN,
    },
    "DbrxAttentionConfig": {"clip_qkv": 8.0, "rope_theta": 10000.0, "kv_n_heads": 2},
    "DbrxFFNConfig": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
    "ReformerConfig": {
        "attn_layers": ["local", "lsh"],
        "axial_pos_embds": False,
        "num_buckets": 2,
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
    },
}
"""What the usual names do not settle: sizes that must fit together, and settings without a default."""

NOT_BUILT = {
    "Gemma3nForConditionalGeneration": "its vision tower is a model of timm, which is not installed",
    "Gemma4AssistantForCausalLM": "drafts for another model, whose keys and values it needs",
    "Gemma4UnifiedAssistantForCausalLM": "drafts for another model, whose keys and values it needs",
}
"""Model classes that a configuration and tokens are not enough for."""


def tiny_config(config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A configuration of this class with a few small layers, one of each kind that the default has (four at most)."""
    special = SPECIAL.get(config_class.__name__, {})
    attributes = {name: value for name, value in vars(config_class()).items() if not name.startswith("_")}
    chosen: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, PreTrainedConfig):
            chosen[name] = tiny_config(type(value))
        elif (small := _small(name, value)) is not None:
            chosen[name] = small
    if attributes.get("num_key_value_heads") == attributes.get("num_attention_heads") is not None:
        chosen["num_key_value_heads"] = HEADS  # latent attention has as many
    chosen |= _layers_of_each_kind(attributes)
    return config_class(**(chosen | special))


def _small(name: str, value: Any) -> Any:
    """A small value for a setting; None if it can stay as it is."""
    if isinstance(value, bool):
        return {"use_cache": False, "is_decoder": True}.get(name)
    if "drop" in name and isinstance(value, float | int):
        return type(value)(0)
    if "jitter" in name or name == "mask_time_prob":
        return 0.0
    if name in LAST_STEP:
        return LAST_STEP[name]
    if name in TOKENS and value is not None:
        return TOKENS[name]
    if name.endswith(("token_id", "token_index")) and isinstance(value, int):
        return VOCABULARY - 1
    if name == "is_decoder":
        return True
    if name in SIZE_OF and isinstance(value, int):
        return min(value, SIZE_OF[name])
    return HEAD if name == "head_dim" and value is None else None


def _layers_of_each_kind(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The number of layers, and what is listed layer by layer, with one layer of each kind and two at least."""
    key = next((key for key in ("num_hidden_layers", "n_layer", "num_layers") if key in attributes), None)
    lists = {
        name: value
        for name, value in attributes.items()
        if key and isinstance(value, list) and len(value) == attributes[key] and len(value) > 1
    }
    if key is None or not lists:
        return {}
    layers = [repr(layer) for layer in zip(*lists.values(), strict=True)]
    rows = [layers.index(kind) for kind in dict.fromkeys(layers)]
    rows = rows[:4] if len(rows) > 1 else [0, 1]
    small = {name: [_small(name, value) or value for value in values] for name, values in lists.items()}
    return {key: len(rows), **{name: [values[row] for row in rows] for name, values in small.items()}}
