"""The report of a directory: read its runs, judge the claims, print the tables, write the figures and the page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from proma_bench import files
from proma_bench.console import say
from proma_bench.report.html import write_page
from proma_bench.report.judging import TierClaims, evaluate, write_claims
from proma_bench.report.matrix import claims_table
from proma_bench.report.plots import file_name, learning_curves, png
from proma_bench.report.reading import read_runs
from proma_bench.report.statistics import at_rate, cells
from proma_bench.report.table import summary_table


def report(root: Path, console: Console) -> Path:
    """Print a table for each tier found under ``root`` and the claims, and return the path of ``root/report.html``.

    Beside it go ``claims.json`` and ``plots/TIER.png``.

    Raises:
        UsageError: there is nothing to report.
        RunError: nothing of it can be used.
    """
    reading = read_runs(root)
    tiers = [
        tier for tier in evaluate(reading.runs) if any(run.metrics or run.diverged for run in tier.comparable.members)
    ]
    for tier in tiers:
        console.print(summary_table(tier.comparable.title, cells(tier.comparable.members)))
    console.print(claims_table(tiers))
    for line in [*reading.problems, *(note for tier in tiers for note in tier.notes)]:
        say(console, line)
    plots = [_curves(tier, root) for tier in tiers]
    write_claims(tiers, root / "claims.json")
    page = write_page(root, tiers, reading.problems)
    for path in plots:
        say(console, f"plots: {path}")
    say(console, f"report: {page}")
    return page


def _curves(tier: TierClaims, root: Path) -> Path:
    """Learning curves at the same-settings learning rate."""
    name, shown = tier.comparable.title, at_rate(cells(tier.comparable.members), tier.rate)
    return files.write(root, f"plots/{file_name(name)}.png", png(learning_curves(name, shown, tier.criteria.score)))
