"""The page: everything about a directory of runs in one file that makes no request and runs no script.

Whatever comes from a run's directory is escaped by the template, and figures are images inside the page.
"""

from __future__ import annotations

import base64
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

import proma_bench
from proma_bench import files
from proma_bench.console import printable
from proma_bench.report import heat, matrix
from proma_bench.report.judging import TierClaims
from proma_bench.report.leaderboard import Leaderboard
from proma_bench.report.plots import along_score, learning_curves, score_by_kl, svg
from proma_bench.report.settings import commands, settings, versions
from proma_bench.report.standings import grids
from proma_bench.report.statistics import at_rate, cells
from proma_bench.report.table import as_grid, summary_table
from proma_bench.runs.directory import Run

CURVES = "Learning curves: means over seeds, shaded 95 % t-intervals (none with fewer than five seeds)."
ALONG_SCORE = (
    "The frontier: local KL, global KL and entropy where a score was reached. Thick: at the lowest learning rate that "
    "reached it, mean over seeds and interval; thin: each learning rate. Lower is better for KL, higher for entropy."
)
BY_KL = (
    "The final score against the mean local KL of a step: each method a line through its learning rates. What is "
    "higher has learned more from the same change of the policy."
)
LAYERS = "Share of the running gradient's norm that PROMA removed, tensor by tensor over training (0: nothing)."
OBSERVED = (
    "What `observe` saw in the Gram matrices of plain accumulation, tensor by tensor over training: in how many "
    "directions the sequences' gradients point, how many pairs of sequences are in conflict, and how many sequences it "
    "takes until the noise of a gradient is as small as its signal (white: the signal is lost in the noise)."
)
FILES = ("config.json", "metrics.jsonl", "diverged.json", "summary.json")


def write_page(root: Path, tiers: Sequence[TierClaims], boards: Sequence[Leaderboard], problems: Sequence[str]) -> Path:
    """Write ``report.html`` into the directory that the runs are in."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("proma_bench.report", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("page.html").render(
        name=printable(root.resolve().name),
        version=proma_bench.__version__,
        runs=sum(len(tier.comparable.members) for tier in tiers),
        ladder=(root / "ladder.json").exists(),
        problems=problems,
        headings=[
            {
                "tier": printable(tier.comparable.title),
                "protocol": matrix.PROTOCOLS[protocol],
                "rates": matrix.settings_of(tier, protocol),
            }
            for tier, protocol in matrix.columns(tiers)
        ],
        rows=matrix.rows(tiers),
        symbols=matrix.SYMBOLS,
        figures=matrix.figures,
        size=matrix.size,
        details=matrix.details,
        tiers=[
            _section(root, tier, [board for board in boards if board.title == tier.comparable.title]) for tier in tiers
        ],
    )
    return files.write(root, "report.html", page.encode("utf-8", "backslashreplace"))


def _section(root: Path, tier: TierClaims, boards: Sequence[Leaderboard]) -> dict[str, Any]:
    runs = tier.comparable.members
    figures = (
        (CURVES, _curves(tier)),
        (ALONG_SCORE, _frontier(tier)),
        (BY_KL, score_by_kl(tier.comparable, boards[0].rates) if boards else None),
        (LAYERS, _layers(tier, "proma", heat.REMOVED)),
        (OBSERVED, _layers(tier, "observe", heat.OBSERVED)),
    )
    return {
        "name": printable(tier.comparable.title),
        "criteria": str(tier.criteria),
        "grids": [
            as_grid(summary_table(printable(tier.comparable.title), cells(runs))),
            *(grid for board in boards for grid in grids(board)),
        ],
        "notes": [printable(note) for note in tier.notes],
        "figures": [{"caption": caption, "source": _data_uri(figure)} for caption, figure in figures if figure],
        "settings": {printable(name): printable(value) for name, value in settings(runs).items()},
        "versions": {printable(name): printable(value) for name, value in versions(runs).items()},
        "commands": [printable(command) for command in commands(root, runs)],
        "files": [_files(root, run) for run in runs],
    }


def _curves(tier: TierClaims) -> Figure:
    shown = at_rate(cells(tier.comparable.members), tier.rate)
    return learning_curves(tier.comparable.title, shown, tier.criteria.score)


def _frontier(tier: TierClaims) -> Figure | None:
    return along_score(tier.comparable, tier.rates, tier.criteria)


def _layers(tier: TierClaims, method: str, metrics: Mapping[str, str]) -> Figure | None:
    shown = [cell for cell in at_rate(cells(tier.comparable.members), tier.rate) if cell.method == method]
    return heat.by_layer(tier.comparable.title, shown[0].runs, metrics) if shown and shown[0].runs else None


def _data_uri(figure: Figure) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg(figure)).decode()


def _files(root: Path, run: Run) -> dict[str, Any]:
    folder = run.path.relative_to(root)
    links = [
        {"name": name, "link": urllib.parse.quote(b"./" + os.fsencode(folder / name))}
        for name in FILES
        if files.is_file(run.path / name)
    ]
    return {"path": printable(str(folder)), "files": links}
