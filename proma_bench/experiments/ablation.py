"""Which parts of PROMA matter: one setting is changed at a time, with the same seeds for each variant."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from proma_bench import files
from proma_bench.console import say
from proma_bench.experiments.jobs import Job
from proma_bench.experiments.ladder import finish
from proma_bench.learning.config import RunConfig
from proma_bench.learning.methods import METHODS
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.methods import PROJECTION_METHODS
from proma_bench.report.settings import run_command
from proma_bench.report.statistics import Cell
from proma_bench.report.table import ablation_table, markdown
from proma_bench.runs.directory import read_run

SETTINGS: dict[str, dict[str, Any]] = {
    "PROMA": {},
    "iterative, 1 sweep": {"sweeps": 1},
    "iterative, 4 sweeps": {"sweeps": 4},
    "iterative, 8 sweeps": {"sweeps": 8},
    "intra, rank 1": {"projection": "intra", "projection_rank": 1},
    "intra, rank 16": {"projection": "intra", "projection_rank": 16},
    "no clamp": {"max_removed": None},
    "exact, no clamp": {"projection": "exact", "max_removed": None},
    "clamp 0.25": {"max_removed": 0.25},
    "clamp 1": {"max_removed": 1.0},
    "shrinkage 0.5": {"shrinkage": 0.5},
    "microbatches of 2": {"microbatch_size": 2},
    "microbatches of 4": {"microbatch_size": 4},
    "microbatches of 16": {"microbatch_size": 16},
    "microbatches of 32": {"microbatch_size": 32},
    "microbatches of one group": {"shuffle": False},
    "microbatches of one length": {"sort_by_length": True},
    "linear weights only": {"projected": "linear"},
}
"""Single settings that are worth a look."""


def variants() -> dict[str, dict[str, Any]]:
    """What differs from the run as it was asked for, with method proma: SETTINGS, other projections, other methods."""
    projections = {
        name: {"projection": name}
        for name, projection in PROJECTION_METHODS.items()
        if projection.takes != "gradients" and name != ProjectionConfig().method
    }
    methods = {method.style.title: {"method": name} for name, method in METHODS.items() if name != "proma"}
    return {**SETTINGS, **projections, **methods}


def ablate(config: RunConfig, seeds: int, root: Path, processes: int, console: Console) -> None:
    """Run every variant with seeds from ``config.seed`` on, at ``root/VARIANT/seed-N``, and compare them in one table.

    Finished runs are not repeated. The table is printed and written to ``root/ablation.md``. Raises as
    `proma_bench.experiments.run.run_in`, and RunError when runs failed.
    """
    files.require_own(root, "ablation.md", b"--ablate --seeds ")
    runs = {name: jobs(config, name, seeds, root) for name in variants()}
    for job in itertools.chain(*runs.values()):
        files.require_inside(root, job.path)
    finish([job for of_seed in zip(*runs.values(), strict=True) for job in of_seed], processes, console)
    cells = {name: Cell.of([read_run(job.path) for job in of_name]) for name, of_name in runs.items()}
    table = ablation_table(config, cells, seeds)
    console.print(table)
    command = f"{run_command(_stored(config))} --ablate --seeds {seeds}"
    page = f"Made by\n\n    {command}\n\n{markdown(table)}\n"
    path = files.write(root, "ablation.md", page.encode("utf-8", "backslashreplace"))
    say(console, f"table: {path}")


def folder_of(variant: str) -> str:
    """The folder of a variant's runs."""
    return re.sub(r"[^a-z0-9.]+", "-", variant.lower())


def jobs(config: RunConfig, name: str, seeds: int, root: Path) -> list[Job]:
    """The runs of a variant, one for each seed."""
    variant = dataclasses.replace(config, **{"method": "proma", **variants()[name]})
    folder = root / folder_of(name)
    every = range(config.seed, config.seed + seeds)
    return [Job(folder / f"seed-{seed}", dataclasses.replace(variant, seed=seed)) for seed in every]


def _stored(config: RunConfig) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(config).items() if name != "method"} | {
        "tier": config.tier
    }
