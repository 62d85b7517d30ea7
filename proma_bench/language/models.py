"""Language models and their tokenizers: tiny ones made here, pretrained ones from the hub or a directory.

Weights are read from safetensors, and code that comes with a model is never run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging

from proma_bench.downloads import model_folder
from proma_bench.errors import UsageError


class Pretrained:
    """A model and its tokenizer: a directory, or a name on the hub, with a revision, that is fetched if need be.

    Raises:
        UsageError: something cannot be found or read; one line says what.
    """

    def __init__(self, name: str, revision: str | None) -> None:
        folder = Path(name)
        self._folder = folder if folder.is_dir() else model_folder(name, revision, "--model takes a directory")
        logging.disable_progress_bar()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer: PreTrainedTokenizerBase = self._load("the tokenizer", AutoTokenizer)
        return tokenizer

    def model(self) -> PreTrainedModel:
        """The model in float32, without dropout: the policy that is trained must be the policy that has sampled."""
        config: PreTrainedConfig = self._load("the config", AutoConfig)
        for setting in [name for name in vars(config) if "dropout" in name or name.endswith("pdrop")]:
            setattr(config, setting, 0.0)
        model: PreTrainedModel = self._load(
            "weights in safetensors", AutoModelForCausalLM, config=config, dtype=torch.float32, use_safetensors=True
        )
        return model

    def stop_token_ids(self) -> set[int]:
        """The tokens that end a generation according to the model's own configuration, if it has one."""
        if not (self._folder / "generation_config.json").exists():
            return set()
        end = self._load("the generation config", GenerationConfig).eos_token_id
        return set(end) if isinstance(end, list) else set() if end is None else {end}

    def _load(self, what: str, kind: Any, **options: Any) -> Any:
        try:
            return kind.from_pretrained(str(self._folder), local_files_only=True, trust_remote_code=False, **options)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"cannot load {what} from {self._folder} ({type(error).__name__}: {reason})") from error


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Gradient checkpointing layer by layer, in training mode."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name from transformers 5 on
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that no text of any task is unknown, and one that ends an answer."""
    end, alphabet = "<end>", sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([end, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)


def tiny_qwen3(vocabulary: int, context: int) -> Qwen3ForCausalLM:
    """0.8 million parameters, with everything that the big one has: grouped queries, RoPE, RMSNorm, a tied head."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=context,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen3ForCausalLM(config)
