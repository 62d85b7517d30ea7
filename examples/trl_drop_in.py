"""The example of GRPOTrainer's documentation on a CPU, with one import changed: the update is PROMA's.

    python examples/trl_drop_in.py [MODEL]

Without a model it makes a tiny random one. The reward is the share of early letters.
"""

import sys
import tempfile

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

# from trl import GRPOConfig, GRPOTrainer
from proma_bench.integrations.trl import PROMAConfig as GRPOConfig, PROMATrainer as GRPOTrainer  # isort: skip

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def tiny_model(folder: str) -> str:
    """A random Qwen3 with one token a letter; where it is."""
    vocabulary = ["<pad>", "<eos>", *LETTERS]
    words = models.WordLevel({letter: number for number, letter in enumerate(vocabulary)}, unk_token="<pad>")
    letters = Tokenizer(words)
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    tokens = {"vocab_size": len(vocabulary), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, **tokens)).save_pretrained(folder)
    return folder


def early_letters(completions: list[str], **_: object) -> list[float]:
    """The share of letters from the first half of the alphabet."""
    return [sum(letter in LETTERS[:13] for letter in text) / max(1, len(text)) for text in completions]


dataset = Dataset.from_dict({"prompt": ["AB", "C", "DEF", "GH"]})

trainer = GRPOTrainer(
    model=sys.argv[1] if len(sys.argv) > 1 else tiny_model(tempfile.mkdtemp()),
    reward_funcs=early_letters,
    args=GRPOConfig("runs/drop-in", use_cpu=True, max_completion_length=8, logging_steps=1, report_to="none"),
    train_dataset=dataset,
)
trainer.train()
