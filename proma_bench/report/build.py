"""The report of a directory: read its runs, print the tables, write the plots."""

from __future__ import annotations

import itertools
from pathlib import Path

from rich.console import Console

from proma_bench.report.plots import plot_tier
from proma_bench.report.statistics import groups
from proma_bench.report.table import summary_table
from proma_bench.runs import find_runs


def report(root: Path, console: Console) -> list[Path]:
    """Print a table for each rung found under ``root``, write its plot to ``root/plots``, and return the plots' paths.

    Raises UsageError when there is nothing to report, RunError when a run's directory is damaged.
    """
    runs = find_runs(root)
    plots = []
    for tier, members in itertools.groupby(groups(runs), key=lambda group: group.tier):
        tier_groups = list(members)
        console.print(summary_table(tier, tier_groups))
        plots.append(plot_tier(tier, tier_groups, root / "plots" / f"{tier}.png"))
    unfinished = [run for run in runs if not run.finished]
    if unfinished:
        console.print(f"{len(unfinished)} of {len(runs)} runs are unfinished, the first of them {unfinished[0].path}")
    for path in plots:
        console.print(f"plots: {path}", soft_wrap=True)
    return plots
