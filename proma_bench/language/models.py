"""Language models and their tokenizers: a tiny untrained one, and pretrained ones from the hub or a directory.

Weights are only read from safetensors, and code in the repository of a model is never executed.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
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
    """A pretrained model and its tokenizer."""

    def __init__(self, name: str, revision: str | None) -> None:
        """Find the model, or download it.

        Args:
            name: a directory, or the name of a model on the hub.
            revision: commit, tag or branch on the hub; None is the main branch.

        Raises:
            UsageError: the model cannot be downloaded.
        """
        folder = Path(name)
        self._folder = folder if folder.is_dir() else model_folder(name, revision, "--model takes a directory")
        logging.disable_progress_bar()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer.

        Raises:
            UsageError: it cannot be loaded.
        """
        tokenizer: PreTrainedTokenizerBase = self._load("the tokenizer", AutoTokenizer)
        return tokenizer

    def model(self) -> PreTrainedModel:
        """Load the model in float32, without noise, because the trained policy must be the policy that sampled.

        Raises:
            UsageError: it cannot be loaded, for example because there are no weights in safetensors, or it does not
                generate text from left to right.
        """
        config: PreTrainedConfig = self._load("the config", AutoConfig)
        if config.is_encoder_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise UsageError(
                f"{self._folder} has a model of type {config.model_type!r}, which is no causal language model (a "
                "decoder that generates text from left to right); take one that is, for example Qwen3"
            )
        _turn_off_noise(config)
        model, found = self._load(
            "weights in safetensors", AutoModelForCausalLM, config=config, dtype=torch.float32, use_safetensors=True,
            output_loading_info=True,
        )  # fmt: skip
        if missing := sorted(set(found["missing_keys"]) & {name for name, _ in model.named_parameters()}):
            raise UsageError(f"the weights in {self._folder} are not complete: {missing[0]} is missing")
        loaded: PreTrainedModel = model
        return loaded

    def stop_token_ids(self) -> set[int]:
        """The tokens that end an answer according to the generation config of the model, if it has one.

        Raises:
            UsageError: the generation config cannot be loaded.
        """
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


def _turn_off_noise(config: PreTrainedConfig) -> None:
    """Set rates of dropout and the size of other noise to zero, in the configs of parts too."""
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _turn_off_noise(value)
        elif type(value) is float and ("drop" in name or "jitter" in name):
            setattr(config, name, 0.0)


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Turn on gradient checkpointing for each layer. It is active in training mode only.

    Args:
        model: the language model.

    Raises:
        UsageError: its class cannot do that.
    """
    enable = getattr(model, "activation_checkpointing_enable", None)  # the new name of the method in transformers 5
    try:
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    except ValueError as error:
        raise UsageError(f"{error}; turn it off with --no-gradient-checkpointing") from None


def accepted(module: nn.Module, **arguments: Any) -> dict[str, Any]:
    """Those arguments that the ``forward`` of a module has a parameter for. Not all families have positions, for one.

    Args:
        module: the module.
        arguments: arguments by name.

    Returns:
        A part of the arguments.
    """
    known = inspect.signature(type(module).forward).parameters
    return {name: value for name, value in arguments.items() if name in known}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per byte, so that it can represent any text, and one token that ends an answer."""
    end, alphabet = "<end>", sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([end, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)


def tiny_qwen3(vocabulary: int, context_length: int, seed: int = 0) -> Qwen3ForCausalLM:
    """A Qwen3 with 0.8 million parameters and random weights, the same in every call with the same seed.

    It has all features of the large model: grouped queries, RoPE, RMSNorm and a tied head.

    Args:
        vocabulary: number of tokens.
        context_length: number of positions.
        seed: of the weights.

    Returns:
        The model.
    """
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=context_length,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)
