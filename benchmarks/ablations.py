"""The stored runs of PROMA with one setting changed at a time, with ten seeds.

python -m benchmarks.ablations bandit RUNS         run what is missing under RUNS, and store all (minutes)
python -m benchmarks.ablations transformer RUNS    likewise (50 runs of about a minute)

`proma-bench run bandit --ablate --seeds 10` makes the same runs of the bandit.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.stored_runs import run_and_pack, unpack
from proma_bench.experiments.ablation import folder_of, jobs, variants
from proma_bench.learning.config import RunConfig
from proma_bench.report.statistics import Cell
from proma_bench.report.table import ablation_table, markdown
from proma_bench.runs.directory import Run
from proma_bench.tiers.bandit.config import BanditConfig
from proma_bench.tiers.transformer.config import TransformerConfig

STORED = Path(__file__).parent / "results" / "ablations"
SEEDS = 10


class Study(NamedTuple):
    """Settings of all runs of a tier, and the names of the variants."""

    config: RunConfig
    names: tuple[str, ...]


STUDIES = {
    "bandit": Study(BanditConfig(), tuple(variants())),
    "transformer": Study(
        TransformerConfig(steps=60, validate_every=20),
        ("PROMA", "no clamp", "clamp 1", "microbatches of one group", "microbatches of one length"),
    ),
}


def with_runs() -> list[str]:
    """The tiers that have stored runs."""
    return [name for name in STUDIES if stored(name).exists()]


def stored(name: str) -> Path:
    """The file of a tier's runs."""
    return STORED / f"{name}.jsonl.gz"


def cells(name: str) -> dict[str, Cell]:
    """The runs of each variant, in the order of `proma_bench.experiments.ablation`."""
    by_folder: dict[str, list[Run]] = {}
    for run in unpack(stored(name)):
        by_folder.setdefault(run.path.parts[0], []).append(run)
    return {variant: Cell.of(by_folder[folder_of(variant)]) for variant in STUDIES[name].names}


def table(name: str) -> str:
    """One row for each variant."""
    return markdown(ablation_table(STUDIES[name].config, cells(name), SEEDS))


def main(name: str, root: Path, processes: int) -> None:
    study = STUDIES[name]
    planned = [job for variant in study.names for job in jobs(study.config, variant, SEEDS, root)]
    run_and_pack(planned, root, stored(name), processes)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
