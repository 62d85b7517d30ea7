"""The matrix claims × tiers: every claim against every baseline, under both protocols, on every tier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from proma_bench import console
from proma_bench.report.claims import CLAIMS
from proma_bench.report.judging import ClaimResult, TierClaims
from proma_bench.report.plots import style_of
from proma_bench.report.verdicts import Protocol

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
    """All rows of the claims table that have a result in some column."""

    def cell(tier: TierClaims, protocol: Protocol, claim: str, baseline: str) -> ClaimResult | None:
        key = (protocol, claim, baseline)
        return next((one for one in tier.results if (one.protocol, one.claim, one.baseline) == key), None)

    found = [
        Row(
            claim.name,
            claim.text,
            style_of(baseline).title,
            [cell(*column, claim.name, baseline) for column in columns(tiers)],
        )
        for claim in CLAIMS.values()
        for baseline in claim.baselines
    ]
    return [row for row in found if any(row.cells)]


def figures(result: ClaimResult) -> str:
    """The estimate with its interval in a few characters."""
    if result.estimate is None:
        return "not measured" if result.pairs else "no pairs"
    return spread(result.estimate, result.ci_low, result.ci_high)


def details(result: ClaimResult) -> list[str]:
    """What stands below an estimate: how sure it is in a table of many, its placebo, and what is missing."""
    lines = []
    if result.p is not None and result.p_holm is not None:
        lines.append(f"p {level(result.p)}, Holm {level(result.p_holm)}")
    if result.placebo is not None:
        lines.append(f"placebo {spread(result.placebo, result.placebo_low, result.placebo_high)}")
    if result.edge is not None and result.edge_baseline is not None:
        lines.append(f"at the sweep's edge {result.edge:.0%}, {result.edge_baseline:.0%}")
    return [*lines, result.why] if result.why and result.pairs else lines


def spread(estimate: float, low: float | None, high: float | None) -> str:
    """An estimate with its interval, if it has one."""
    return (
        _signed(estimate) if low is None or high is None else f"{_signed(estimate)} [{_signed(low)}, {_signed(high)}]"
    )


def _signed(value: float) -> str:
    """Two digits; returns of hundreds are whole numbers, without an exponent."""
    return f"{value:+.0f}" if abs(value) >= 99.5 else f"{value:+.2g}"


def level(p: float) -> str:
    """A p-value in few characters."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def size(result: ClaimResult) -> str:
    """The number of pairs that have a value, and of those that do not."""
    unmeasured = result.pairs - result.n
    text = f"n {result.n}" + (f", {unmeasured} not measured" if unmeasured and result.n else "")
    return text + (f", {result.diverged} diverged" if result.diverged else "")


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
    rest = f"\n{size(result)}" if brief else "\n".join([f", {size(result)}", figures(result), *details(result)])
    return console.text((result.verdict, _COLOURS[result.verdict]), rest)
