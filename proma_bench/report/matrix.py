"""The matrix claims × tiers: every claim against every baseline, under both protocols, on every tier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from proma_bench import console
from proma_bench.report.claims import CLAIMS
from proma_bench.report.judging import ClaimResult, Protocol, TierClaims
from proma_bench.report.plots import style_of

PROTOCOLS: dict[Protocol, str] = {"same_settings": "same settings", "frontier": "frontier"}
SYMBOLS = {"holds": "✓", "fails": "✗", "inconclusive": "?"}
MOST_WITH_FIGURES = 4  # columns that a terminal of 120 characters has room for
_COLOURS = {"holds": "green", "fails": "red", "inconclusive": "yellow"}


class Row(NamedTuple):
    """A claim against a baseline; ``cells`` has one result per column, None where there was nothing to judge."""

    claim: str
    statement: str
    baseline: str
    cells: list[ClaimResult | None]


def columns(tiers: Sequence[TierClaims]) -> list[tuple[TierClaims, Protocol]]:
    """Tier by tier, the protocols that were evaluated."""
    return [
        (tier, protocol)
        for tier in tiers
        for protocol in PROTOCOLS
        if any(result.protocol == protocol for result in tier.results)
    ]


def rows(tiers: Sequence[TierClaims]) -> list[Row]:
    """All rows of the claims table."""

    def cell(tier: TierClaims, protocol: Protocol, claim: str, baseline: str) -> ClaimResult | None:
        key = (protocol, claim, baseline)
        return next((one for one in tier.results if (one.protocol, one.claim, one.baseline) == key), None)

    return [
        Row(
            claim.name,
            claim.text,
            style_of(baseline).title,
            [cell(*column, claim.name, baseline) for column in columns(tiers)],
        )
        for claim in CLAIMS.values()
        for baseline in claim.baselines
    ]


def figures(result: ClaimResult) -> str:
    """The estimate with its interval in a few characters."""
    if result.estimate is None:
        return "no pairs" if result.n == 0 else "not measured"
    if result.ci_low is None or result.ci_high is None:
        return f"{result.estimate:+.2g}"
    return f"{result.estimate:+.2g} [{result.ci_low:+.2g}, {result.ci_high:+.2g}]"


def settings_of(tier: TierClaims, protocol: Protocol) -> str:
    """The learning rates that a column is about."""
    rates = tier.rates if protocol == "frontier" else [] if tier.rate is None else [tier.rate]
    return "lr " + ", ".join(f"{rate:g}" for rate in rates) if rates else "no pairs"


def claims_table(tiers: Sequence[TierClaims]) -> Table:
    """The matrix for a terminal; with many tiers, verdicts only, as the page has room for the figures."""
    brief = len(columns(tiers)) > MOST_WITH_FIGURES
    title = "Claims, judged by PROMA minus the baseline"
    headings = [
        f"{tier.comparable.title}\n{PROTOCOLS[protocol]}\n{settings_of(tier, protocol)}"
        for tier, protocol in columns(tiers)
    ]
    cells: list[list[str | Text]] = [
        [f"{row.statement}\nthan with {row.baseline}", *(_cell(result, brief) for result in row.cells)]
        for row in rows(tiers)
    ]
    return console.table(title, ["with PROMA, ...", *headings], cells, lines=True)


def _cell(result: ClaimResult | None, brief: bool) -> Text:
    if result is None:
        return Text("-")
    n = f"n {result.n}" + (f", {result.diverged} diverged" if result.diverged else "")
    rest = f"\n{n}" if brief else f", {n}\n{figures(result)}"
    return console.text((result.verdict, _COLOURS[result.verdict]), rest)
