"""Writes docs/zoo.md: what becomes of every causal language model class of the installed transformers.

python -m docs.zoo
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from proma_bench.report.markdown import markdown_table

HOME = Path(__file__).parent
sys.path.insert(0, str(HOME.parent / "tests" / "helpers"))  # as pytest has it: the models are built by the tests' code

import zoo  # noqa: E402

MEANINGS: dict[zoo.Verdict, str] = {
    "right": "right with `Proma(model)`: by rules, or directly through the graph ([coverage](coverage.md))",
    "with autograd": 'right with `Proma(model, uncovered="autograd")` alone',
    "refused": "an error that says why, before any gradient has changed",
    "wrong": "another gradient than the oracle's, or an error that is none of ours",
    "not built": "no tiny model of it runs here",
}
INTRODUCTION = """\
# The zoo of language models

Every causal language model class of transformers {transformers}, built tiny with random weights, takes three
microbatches of three sequences through `Proma` (exact projection, float64, torch {torch}, on a CPU). Each parameter's
gradient is compared with the oracle: autograd, sequence by sequence, and the literal projection. It is right if it is
off by less than 1e-6 of its norm (where a model cannot run in float64: in float32, 1e-3).

[What is covered, and how](coverage.md) explains how parameters without a rule are treated. `python -m docs.zoo` writes
this page; `pytest -m zoo tests/zoo` runs the same as tests.
"""


def page(outcomes: Sequence[zoo.Outcome]) -> str:
    """The page's text."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    summary = [(verdict, str(counts[verdict]), meaning) for verdict, meaning in MEANINGS.items()]
    rows = [
        (f"`{found.model}`", found.verdict, "" if found.error is None else f"{found.error:.0e}", _cell(found.reason))
        for found in outcomes
    ]
    introduction = INTRODUCTION.format(transformers=transformers.__version__, torch=torch.__version__)
    return "\n".join(
        [
            introduction,
            markdown_table(("outcome", "models", ""), summary, numbers=False),
            "",
            "The reason beside a model that is right with autograd alone is what `Proma(model)` raises.",
            "",
            markdown_table(("model", "outcome", "largest relative error", "reason"), rows, numbers=False),
            "",
        ]
    )


def _cell(reason: str) -> str:
    """A reason without its advice, and with nothing in it that Markdown would take for its own."""
    short = reason.partition("; ")[0]
    return f"`{short.replace('`', '')}`" if short else ""


def main() -> int:
    torch.set_num_threads(1)
    outcomes = []
    for name in zoo.names():
        outcomes.append(zoo.outcome(name))
        print(f"{name}: {outcomes[-1].verdict}", flush=True)
    (HOME / "zoo.md").write_text(page(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
