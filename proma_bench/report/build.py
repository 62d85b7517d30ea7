"""The report of a directory: read its runs, judge the claims, print the tables, write the figures and the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from proma_bench import files
from proma_bench.console import say
from proma_bench.report.html import write_page
from proma_bench.report.judging import TierClaims, evaluate, write_claims
from proma_bench.report.leaderboard import leaderboard
from proma_bench.report.matrix import claims_table
from proma_bench.report.plots import MARK, file_name, learning_curves, png
from proma_bench.report.reading import read_runs
from proma_bench.report.standings import standings_tables
from proma_bench.report.statistics import at_rate, cells
from proma_bench.report.table import summary_table


def report(root: Path, console: Console) -> Path:
    """Print a table for each tier found under ``root`` and the claims, and return the path of ``root/report.html``.

    Beside it go ``claims.json`` and ``plots/TIER.png``.

    Raises:
        UsageError: there is nothing to report.
        RunError: nothing of it can be used, or a file of somebody else has the name of one that would be written.
    """
    reading = read_runs(root)
    tiers = [
        tier for tier in evaluate(reading.runs) if any(run.metrics or run.diverged for run in tier.comparable.members)
    ]
    _require_own_files(root, tiers)
    for tier in tiers:
        console.print(summary_table(tier.comparable.title, cells(tier.comparable.members)))
    boards = [board for tier in tiers if (board := leaderboard(tier)) is not None]
    for board in boards:
        for table in standings_tables(board):
            console.print(table)
    console.print(claims_table(tiers))
    for line in [*reading.problems, *(note for tier in tiers for note in tier.notes)]:
        say(console, line)
    plots = [_curves(tier, root) for tier in tiers]
    write_claims(tiers, root / "claims.json")
    page = write_page(root, tiers, boards, reading.problems)
    for path in plots:
        say(console, f"plots: {path}")
    say(console, f"report: {page}")
    return page


def _require_own_files(root: Path, tiers: Sequence[TierClaims]) -> None:
    files.require_own(root, "report.html", b"<title>proma_bench: ")
    files.require_own(root, "claims.json", b'"verdict"')
    for tier in tiers:
        files.require_own(root, _plot(tier), MARK)


def _plot(tier: TierClaims) -> str:
    return f"plots/{file_name(tier.comparable.title)}.png"


def _curves(tier: TierClaims, root: Path) -> Path:
    """Learning curves at the same-settings learning rate."""
    name, shown = tier.comparable.title, at_rate(cells(tier.comparable.members), tier.rate)
    return files.write(root, _plot(tier), png(learning_curves(name, shown, tier.criteria.score)))
