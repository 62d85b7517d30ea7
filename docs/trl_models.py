"""Writes the tables of architectures and adapters in docs/trl.md.

python -m docs.trl_models
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")

import torch

from docs.marked import between_markers
from proma_bench.report.markdown import markdown_table

HOME = Path(__file__).parent
PAGE = HOME / "trl.md"
MARKER = "architectures and adapters: python -m docs.trl_models"
sys.path.insert(0, str(HOME.parent / "tests" / "helpers"))  # as pytest has it: the models are built by the tests' code

import trl_models  # noqa: E402


def row(name: str, outcome: trl_models.Outcome) -> tuple[str, str]:
    """What the page says of one."""
    return name, outcome.verdict if not outcome.reason else f"{outcome.verdict}: {outcome.reason.partition(';')[0]}"


def tables(adapters: list[tuple[str, str]], architectures: list[tuple[str, str]]) -> str:
    """Both, one after the other."""
    return "\n\n".join(
        [
            markdown_table(("adapter, on a tiny Qwen3", ""), adapters, numbers=False),
            markdown_table(("architecture, all weights", ""), architectures, numbers=False),
        ]
    )


def main() -> int:
    torch.set_num_threads(1)
    adapters = [row(name, trl_models.adapter(name)) for name in trl_models.ADAPTERS]
    architectures = [row(f"`{name}`", trl_models.architecture(name)) for name in trl_models.ARCHITECTURES]
    text = between_markers(PAGE.read_text(), MARKER, tables(adapters, architectures))
    assert text is not None, f"{PAGE} has no marker {MARKER!r}"
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
