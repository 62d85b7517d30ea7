"""A tiny model, its tokenizer and questions, as VeRL's command reads them from files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import torch
from causal_lm import tiny_qwen3
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789# "
END = len(CHARACTERS)
TRUTH = 3


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each character that answers are made of; all others are unknown."""
    special = {"eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    vocabulary = {token: i for i, token in enumerate([*CHARACTERS, *special.values()])}
    by_character = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    by_character.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    by_character.decoder = decoders.Fuse()
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return PreTrainedTokenizerFast(tokenizer_object=by_character, chat_template=template, **special)


def example_data() -> ModuleType:
    """``examples/verl_gsm8k_data.py``"""
    path = Path(__file__).parents[2] / "examples" / "verl_gsm8k_data.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path) -> None:
    """The model and its tokenizer in ``model``, and the questions in ``train.parquet`` and ``test.parquet``."""
    model = tiny_qwen3(torch.float32)
    model.generation_config.eos_token_id = END
    model.save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    row = example_data().row
    for split, size in {"train": 8, "test": 2}.items():
        sums = [f"what is {i} plus {TRUTH - i}" for i in range(size)]
        rows = [row({"question": question, "answer": f"#### {TRUTH}"}) for question in sums]
        Dataset.from_list(rows).to_parquet(folder / f"{split}.parquet")
