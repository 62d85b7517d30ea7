"""The stored runs of PROMA with one setting changed at a time, on the bandit with ten seeds.

proma-bench run bandit --ablate --seeds 10 --out RUNS    run what is missing under RUNS
python -m benchmarks.ablations RUNS                      store all
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from benchmarks.stored_runs import pack, unpack
from proma_bench.experiments.ablation import folder_of, variants
from proma_bench.report.reading import read_runs
from proma_bench.report.statistics import Cell
from proma_bench.report.table import ablation_table, markdown
from proma_bench.runs.directory import Run
from proma_bench.tiers.bandit.config import BanditConfig

STORED = Path(__file__).parent / "results" / "ablations" / "bandit.jsonl.gz"


def table() -> str:
    """One row for each variant, in the order of `proma_bench.experiments.ablation`."""
    by_folder: dict[str, list[Run]] = {}
    for run in unpack(STORED):
        by_folder.setdefault(run.path.parts[0], []).append(run)
    cells = {name: _cell(by_folder[folder_of(name)]) for name in variants() if folder_of(name) in by_folder}
    return markdown(ablation_table(BanditConfig(), cells, max(map(len, by_folder.values()))))


def _cell(runs: list[Run]) -> Cell:
    config = runs[0].config
    finished, diverged = ([run for run in runs if run.finished == ended] for ended in (True, False))
    return Cell(config["title"], config["method"], config["learning_rate"], finished, diverged)


def main(root: Path) -> None:
    runs = [run for run in read_runs(root).runs if run.finished or run.diverged]
    pack([dataclasses.replace(run, path=run.path.relative_to(root)) for run in runs], STORED)
    print(f"{STORED}: {len(runs)} runs")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
