"""The leaderboard in words and figures: two tables, which a terminal, the page and the docs show alike."""

from __future__ import annotations

import math
from typing import NamedTuple

from rich.table import Table

from proma_bench import console
from proma_bench.report.leaderboard import ALONG_THE_SWEEP, OURS, Compared, Leaderboard, Matched, Mean, Standing
from proma_bench.report.matrix import SYMBOLS, level, spread
from proma_bench.report.paired import Estimate
from proma_bench.report.plots import style_of
from proma_bench.runs.matching import BASELINE

NOTHING = "–"
ALONG = {
    "score_per_kl": "score at equal cumulative local KL",
    "kl_local": "local KL at equal score",
    "entropy": "entropy at equal score",
}


class Grid(NamedTuple):
    """A table: a heading for each column, and rows whose cells may have several lines."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def grids(board: Leaderboard) -> list[Grid]:
    """The tables of a leaderboard; the second one only if there is a baseline to compare with."""
    found = [_at_their_best(board)]
    if board.matched or board.along:
        found.append(_against_the_baseline(board))
    return found


def standings_tables(board: Leaderboard) -> list[Table]:
    """The same for a terminal, which has room for estimates and intervals only."""
    best, *against = grids(board)
    brief = [grid._replace(rows=[[cell.split("\n")[0] for cell in row] for row in grid.rows]) for grid in against]
    return [
        console.table(f"{board.title}: {grid.title[0].lower()}{grid.title[1:]}", grid.headings, grid.rows, lines=True)
        for grid in [best, *brief]
    ]


def _at_their_best(board: Leaderboard) -> Grid:
    sweep = ", ".join(f"{rate:g}" for rate in board.rates)
    columns = {
        "final score": (lambda one: _mean(one.score, 3), False),
        "final sampled score": (lambda one: _mean(one.score_sampled, 3), True),
        "cumulative local KL (nats)": (lambda one: _mean(one.kl_spent, 3), False),
        "score per nat": (lambda one: _mean(one.per_nat, 1), False),
        "final entropy (nats)": (lambda one: _mean(one.entropy, 3), False),
        "time of an update": (lambda one: _mean(one.cost, 2), True),
    }
    shown = {
        heading: cell
        for heading, (cell, is_optional) in columns.items()
        if not is_optional or any(cell(one) != NOTHING for one in board.standings)
    }
    rows = [
        [style_of(one.method).title, _rate(one), *(cell(one) for cell in shown.values())] for one in board.standings
    ]
    title = f"Each method at its best learning rate of {sweep} (* at the edge)"
    return Grid(title, ["method", "learning rate", *shown], rows)


def _rate(standing: Standing) -> str:
    size = f"n {standing.n}" + (f", {standing.diverged} diverged" if standing.diverged else "")
    return f"{standing.learning_rate:g}{'*' if standing.at_edge else ''}\n{size}"


def _mean(value: Mean, digits: int) -> str:
    if math.isnan(value.mean):
        return NOTHING
    text = f"{value.mean:.{digits}f}"
    return text if math.isnan(value.low) else f"{text}\n[{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _against_the_baseline(board: Leaderboard) -> Grid:
    ours, baseline = style_of(OURS).title, style_of(BASELINE).title
    scores = [
        metric
        for metric in ("score", "score_sampled")
        if any(not math.isnan(one.scores[metric].found.estimate) for one in board.matched.values())
    ]
    names = {"score": "final score", "score_sampled": "final sampled score"}
    headings = ["method", "rate of equal\nmean local KL", *(f"{names[metric]} there" for metric in scores)]
    headings += [f"{ours} minus it,\nfinal score there", *(ALONG[claim] for claim in ALONG_THE_SWEEP)]
    rows = []
    for one in board.standings:
        if one.method != BASELINE:
            matched = board.matched.get(one.method)
            along = [_compared(board.along.get(claim, {}).get(one.method)) for claim in ALONG_THE_SWEEP]
            rows.append([style_of(one.method).title, *_matched(matched, scores), *along])
    placebo = [_interval(board.placebos.get(claim)) for claim in ALONG_THE_SWEEP]
    rows.append([f"placebo: {baseline}, lower rates minus higher", *[NOTHING] * (len(scores) + 2), *placebo])
    return Grid(f"Each method minus {baseline}, seed by seed", headings, rows)


def _matched(matched: Matched | None, scores: list[str]) -> list[str]:
    if matched is None:
        return [NOTHING] * (len(scores) + 2)
    cells = [_compared(matched.scores[metric]) for metric in scores]
    return [f"{matched.learning_rate:g}\nKL {matched.kl_local:.2g}", *cells, _compared(matched.below_ours)]


def _compared(compared: Compared | None) -> str:
    if compared is None or not compared.found.n:
        return NOTHING
    lines = [f"{SYMBOLS[compared.verdict]} {_interval(compared.found)}"]
    lines += [] if math.isnan(compared.p_holm) else [f"Holm {level(compared.p_holm)}"]
    return "\n".join([*lines, *([compared.why] if compared.why else [])])


def _interval(found: Estimate | None) -> str:
    if found is None or not found.n:
        return NOTHING
    return spread(found.estimate, *(None if math.isnan(end) else end for end in (found.low, found.high)))
