"""The report of a directory: read its runs, judge the claims, print the tables, write the figures and the page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from proma_bench.report.claims import RungClaims, evaluate, write_claims
from proma_bench.report.html import write_page
from proma_bench.report.matrix import claims_table
from proma_bench.report.plots import file_name, learning_curves, write_png
from proma_bench.report.reading import printable, read_runs
from proma_bench.report.statistics import at_rate, groups
from proma_bench.report.table import summary_table


def report(root: Path, console: Console) -> Path:
    """Print a table for each rung found under ``root`` and the claims, and return the path of ``root/report.html``.

    Beside it go ``claims.json`` and ``plots/RUNG.png``. Raises UsageError when there is nothing to report, RunError
    when nothing of it can be used.
    """
    reading = read_runs(root)
    rungs = [rung for rung in evaluate(reading.runs) if any(run.metrics for run in rung.comparable.members)]
    for rung in rungs:
        console.print(summary_table(printable(rung.comparable.rung), groups(rung.comparable.members)))
    console.print(claims_table(rungs))
    for line in [*reading.problems, *(note for rung in rungs for note in rung.notes)]:
        console.print(printable(line), soft_wrap=True, markup=False)
    plots = [_curves(rung, root) for rung in rungs]
    write_claims(rungs, root / "claims.json")
    page = write_page(root, rungs, reading.problems)
    for path in plots:
        console.print(f"plots: {path}", soft_wrap=True, markup=False)
    console.print(f"report: {page}", soft_wrap=True, markup=False)
    return page


def _curves(rung: RungClaims, root: Path) -> Path:
    """Learning curves at the same-settings learning rate."""
    name, shown = rung.comparable.rung, at_rate(groups(rung.comparable.members), rung.rate)
    return write_png(learning_curves(name, shown, rung.rule.score), root / "plots" / f"{file_name(name)}.png")
