"""Writes the table and the figure of the stand-in in docs/llm.md, and its claims for docs/claims.md, from stored runs.

python -m docs.stand_in            write them (then `python -m docs.tables`)
python -m docs.stand_in --check    fail if the page has others
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.stand_in import METHODS, stored
from benchmarks.stored_runs import final_differences
from docs.leaderboard import filled
from docs.studies import cell, shown, title
from docs.tables import PUBLISHED
from proma_bench.report.against import Compared, adjusted
from proma_bench.report.judging import evaluate, write_claims
from proma_bench.report.markdown import markdown_table
from proma_bench.report.plots import learning_curves, png
from proma_bench.report.statistics import Array, Cell
from proma_bench.runs.criteria import Criteria
from proma_bench.runs.directory import Run
from proma_bench.runs.matching import mean_local_kl

HOME = Path(__file__).parent
PAGE = HOME / "llm.md"
FIGURE = HOME / "llm.png"
ENDS = {"score": "greedy score", "score_sampled": "sampled score", "kl_global": "global KL", "entropy": "entropy"}
KL = "mean local KL"
PAIRS = (("proma", "grpo"), ("proma", "reinforce"), ("grpo", "reinforce"))

Seeds = Mapping[int, Run]


def differences() -> dict[str, dict[tuple[str, str], Compared]]:
    """One method minus another, by measure and pair; Holm for the pairs of a measure."""
    runs = {method: stored(method) for method in METHODS}
    local_kl = {method: _local_kl(of_method) for method, of_method in runs.items()}
    found = {KL: {(mine, other): _minus(local_kl[mine], local_kl[other]) for mine, other in PAIRS}} | {
        heading: {pair: final_differences(*(runs[one] for one in pair), metric) for pair in PAIRS}
        for metric, heading in ENDS.items()
    }
    return {heading: adjusted(of_pairs, Criteria()) for heading, of_pairs in found.items()}


def _local_kl(runs: Seeds) -> dict[int, float]:
    """The mean over the steps, by seed."""
    return {seed: mean_local_kl([run]) for seed, run in runs.items()}


def _minus(mine: Mapping[int, float], other: Mapping[int, float]) -> Array:
    """Seed by seed."""
    return np.array([mine[seed] - other[seed] for seed in sorted(mine.keys() & other)])


def table() -> str:
    """The methods' means, and the differences of paired seeds."""
    found = differences()
    rows = []
    for method in METHODS:
        runs = stored(method)
        means = {
            heading: np.mean([run.metrics[-1][metric] for run in runs.values()]) for metric, heading in ENDS.items()
        }
        means[KL] = np.mean(list(_local_kl(runs).values()))
        rows.append((title(method), str(len(runs)), *(shown(means[heading]) for heading in found)))
    for mine, other in PAIRS:
        n = next(iter(found.values()))[mine, other].found.n
        rows.append(
            (f"{title(mine)} minus {title(other)}", str(n), *(cell(one[mine, other]) for one in found.values()))
        )
    return markdown_table(("method", "n", *found), rows)


def contents() -> dict[str, str]:
    """What stands between the markers of the page."""
    return {"stand-in": table()}


def main(arguments: Sequence[str]) -> int:
    text = PAGE.read_text()
    new = filled(text, contents())
    if "--check" in arguments:
        return int(new != text)
    PAGE.write_text(new)
    write_claims(evaluate([run for method in METHODS for run in stored(method).values()]), PUBLISHED / "llm.json")
    cells = [Cell.of(list(stored(method).values())) for method in METHODS]
    FIGURE.write_bytes(png(learning_curves("llm/basic_arithmetic", cells, "score")))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
