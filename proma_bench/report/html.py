"""The page: everything about a directory of runs in one file that makes no request and runs no script.

Whatever comes from a run's directory is escaped by the template, and figures are images inside the page.
"""

from __future__ import annotations

import base64
import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

import proma_bench
from proma_bench.report import matrix
from proma_bench.report.claims import RungClaims
from proma_bench.report.plots import along_score, learning_curves, removed_by_layer, svg
from proma_bench.report.reading import printable
from proma_bench.report.settings import commands, settings, versions
from proma_bench.report.statistics import at_rate, groups
from proma_bench.runs import Run

CURVES = "Learning curves: means over seeds, shaded 95 % bootstrap intervals."
ALONG_SCORE = (
    "The frontier: local KL, global KL and entropy where a score was first reached. Thick: the best over the learning "
    "rates, mean over seeds and interval; thin: each learning rate. Lower is better for KL, higher for entropy."
)
LAYERS = "Share of the running gradient's norm that PROMA removed, tensor by tensor over training (0: nothing)."
FILES = ("config.json", "metrics.jsonl", "summary.json")


def write_page(root: Path, rungs: Sequence[RungClaims], problems: Sequence[str]) -> Path:
    """Write ``report.html`` into the directory that the runs are in."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("proma_bench.report", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("page.html").render(
        name=printable(root.resolve().name),
        version=proma_bench.__version__,
        runs=sum(len(rung.comparable.members) for rung in rungs),
        ladder=(root / "ladder.json").exists(),
        problems=problems,
        headings=[
            {
                "rung": printable(rung.comparable.rung),
                "protocol": matrix.PROTOCOLS[protocol],
                "rates": matrix.settings_of(rung, protocol),
            }
            for rung, protocol in matrix.columns(rungs)
        ],
        rows=matrix.rows(rungs),
        symbols=matrix.SYMBOLS,
        figures=matrix.figures,
        rungs=[_rung(root, rung) for rung in rungs],
    )
    path = root / "report.html"
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(page, encoding="utf-8")
    os.replace(unfinished, path)
    return path


def _rung(root: Path, rung: RungClaims) -> dict[str, Any]:
    runs = rung.comparable.members
    figures = ((CURVES, _curves(rung)), (ALONG_SCORE, _frontier(rung)), (LAYERS, _layers(rung)))
    return {
        "name": printable(rung.comparable.rung),
        "rule": str(rung.rule),
        "notes": [printable(note) for note in rung.notes],
        "figures": [{"caption": caption, "source": _data_uri(figure)} for caption, figure in figures if figure],
        "settings": {printable(name): printable(value) for name, value in settings(runs).items()},
        "versions": {printable(name): printable(value) for name, value in versions(runs).items()},
        "commands": [printable(command) for command in commands(root, runs)],
        "files": [_files(root, run) for run in runs],
    }


def _curves(rung: RungClaims) -> Figure:
    shown = at_rate(groups(rung.comparable.members), rung.rate)
    return learning_curves(rung.comparable.rung, shown, rung.rule.score)


def _frontier(rung: RungClaims) -> Figure | None:
    return along_score(rung.comparable, rung.rates, rung.rule)


def _layers(rung: RungClaims) -> Figure | None:
    shown = [group for group in at_rate(groups(rung.comparable.members), rung.rate) if group.method == "proma"]
    return removed_by_layer(rung.comparable.rung, shown[0].runs) if shown else None


def _data_uri(figure: Figure) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg(figure)).decode()


def _files(root: Path, run: Run) -> dict[str, Any]:
    folder = run.path.relative_to(root)
    files = [
        {"name": name, "link": urllib.parse.quote(f"./{(folder / name).as_posix()}")}
        for name in FILES
        if (run.path / name).exists()
    ]
    return {"path": printable(str(folder)), "files": files}
