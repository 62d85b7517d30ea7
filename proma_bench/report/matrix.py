"""The matrix claims × rungs: every claim against every baseline, under both protocols, on every rung."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table

from proma_bench.report.claims import CLAIMS, Finding, Protocol, RungClaims
from proma_bench.report.plots import STYLES

PROTOCOLS: dict[Protocol, str] = {"same_settings": "same settings", "frontier": "frontier"}
SYMBOLS = {"holds": "✓", "fails": "✗", "inconclusive": "?"}
MOST_WITH_FIGURES = 4  # columns that a terminal of 120 characters has room for
_COLOURS = {"holds": "green", "fails": "red", "inconclusive": "yellow"}


class Row(NamedTuple):
    """A claim against a baseline; ``cells`` has one finding a column, None where there was nothing to judge."""

    claim: str
    statement: str
    baseline: str
    cells: list[Finding | None]


def columns(rungs: Sequence[RungClaims]) -> list[tuple[RungClaims, Protocol]]:
    """Rung by rung, the protocols that were evaluated."""
    return [
        (rung, protocol)
        for rung in rungs
        for protocol in PROTOCOLS
        if any(finding.protocol == protocol for finding in rung.findings)
    ]


def rows(rungs: Sequence[RungClaims]) -> list[Row]:
    """All rows of the claims table."""

    def cell(rung: RungClaims, protocol: Protocol, claim: str, baseline: str) -> Finding | None:
        key = (protocol, claim, baseline)
        return next((one for one in rung.findings if (one.protocol, one.claim, one.baseline) == key), None)

    return [
        Row(
            claim.name,
            claim.text,
            STYLES[baseline].title,
            [cell(*column, claim.name, baseline) for column in columns(rungs)],
        )
        for claim in CLAIMS
        for baseline in claim.baselines
    ]


def figures(finding: Finding) -> str:
    """The estimate with its interval in a few characters."""
    if finding.estimate is None:
        return "no pairs" if finding.n == 0 else "not measured"
    if finding.ci_low is None or finding.ci_high is None:
        return f"{finding.estimate:+.2g}"
    return f"{finding.estimate:+.2g} [{finding.ci_low:+.2g}, {finding.ci_high:+.2g}]"


def settings_of(rung: RungClaims, protocol: Protocol) -> str:
    """The learning rates that a column is about."""
    rates = rung.rates if protocol == "frontier" else [] if rung.rate is None else [rung.rate]
    return "lr " + ", ".join(f"{rate:g}" for rate in rates) if rates else "no pairs"


def claims_table(rungs: Sequence[RungClaims]) -> Table:
    """The matrix for a terminal; with many rungs, verdicts only, as the page has room for the figures."""
    brief = len(columns(rungs)) > MOST_WITH_FIGURES
    title = "Claims, judged by PROMA minus the baseline"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_lines=True, pad_edge=False)
    table.add_column("with PROMA, ...")
    for rung, protocol in columns(rungs):
        name = escape(rung.comparable.rung)
        table.add_column(f"{name}\n{PROTOCOLS[protocol]}\n{settings_of(rung, protocol)}", justify="right")
    for row in rows(rungs):
        table.add_row(f"{row.statement}\nthan with {row.baseline}", *(_cell(finding, brief) for finding in row.cells))
    return table


def _cell(finding: Finding | None, brief: bool) -> str:
    if finding is None:
        return "-"
    verdict = f"[{_COLOURS[finding.verdict]}]{finding.verdict}[/]"
    return f"{verdict}\nn {finding.n}" if brief else f"{verdict}, n {finding.n}\n{escape(figures(finding))}"
