"""GSM8K as VeRL wants it: ``python verl_gsm8k_data.py FOLDER`` writes train.parquet and test.parquet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

INSTRUCTION = 'Let\'s think step by step and output the final answer after "####".'


def row(example: dict[str, str]) -> dict[str, Any]:
    """One question, in the words and fields of VeRL's own ``examples/data_preprocess/gsm8k.py``."""
    number = example["answer"].rsplit("#### ", 1)[1].replace(",", "")
    return {
        "data_source": "openai/gsm8k",  # selects the reward: 1 for the right number after ####, else 0
        "prompt": [{"role": "user", "content": f"{example['question']} {INSTRUCTION}"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": number},
    }


def main(folder: Path) -> None:
    from datasets import load_dataset

    folder.mkdir(parents=True, exist_ok=True)
    for split in ("test", "train"):  # the script that calls this looks for the one written last
        examples = load_dataset("openai/gsm8k", "main", split=split)
        examples.map(row, remove_columns=examples.column_names).to_parquet(folder / f"{split}.parquet")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
