"""Language models of a directory's form that are made in a moment, and runs of the llm tier with them."""

from pathlib import Path

import torch

from proma_bench.language.models import byte_tokenizer, tiny_qwen3
from proma_bench.tiers.llm.config import LLMConfig

SUMS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}


def save_tiny(folder: Path, chat=True) -> str:
    """A tiny random Qwen3 with a byte tokenizer, as `from_pretrained` expects it."""
    tokenizer = byte_tokenizer()
    if chat:
        tokenizer.chat_template = "{% if enable_thinking %}think: {% endif %}{{ messages[0]['content'] }}\n"
    model = tiny_qwen3(len(tokenizer), 256)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(3)  # so that what was read decides what comes next
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def tiny_llm(model, **settings):
    """Four optimizer steps on two batches; sums after two solved ones."""
    defaults = {"steps": 4, "prompts": 4, "group_size": 3, "microbatch_size": 3, "checkpoint_every": 2}
    defaults |= {"validate_every": 2, "validation_questions": 6, "max_prompt_tokens": 200, "max_new_tokens": 5}
    defaults |= {"task": "chain_sum", "task_options": SUMS, "few_shot": 2, "few_shot_template": "{question}={answer}\n"}
    return LLMConfig(model=model, **{**defaults, "dtype": "float32", **settings})
