"""The leaderboard in words and figures: two tables, which a terminal, the page and the docs show alike."""

from __future__ import annotations

import math

from rich.table import Table

from proma_bench import console
from proma_bench.report.against import ALONG_THE_SWEEP, OURS, Compared, Matched
from proma_bench.report.leaderboard import Leaderboard, Mean, Standing
from proma_bench.report.matrix import SYMBOLS, level, spread
from proma_bench.report.paired import Estimate
from proma_bench.report.plots import style_of
from proma_bench.report.table import Grid
from proma_bench.runs.matching import BASELINE

NOTHING = "–"
SCORE_NAMES = {"final score": "score", "final sampled score": "score_sampled"}
ALONG = {
    "score_per_kl": "score at equal cumulative local KL",
    "kl_local": "local KL at equal score",
    "entropy": "entropy at equal score",
}


def grids(board: Leaderboard) -> list[Grid]:
    """The tables of a leaderboard; the second one only if there is a baseline to compare with."""
    found = [_at_their_best(board)]
    if board.matched.keys() - {BASELINE} or any(board.along.values()):
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
        "final score": [one.score for one in board.standings],
        "final sampled score": [one.score_sampled for one in board.standings],
        "cumulative local KL (nats)": [one.kl_spent for one in board.standings],
        "local KL on others of the batch, relative": [one.unseen for one in board.standings],
        "score per nat": [one.per_nat for one in board.standings],
        "final entropy (nats)": [one.entropy for one in board.standings],
        "time of an update, relative": [one.cost for one in board.standings],
    }
    shown = {
        heading: list(map(_mean, values))
        for heading, values in columns.items()
        if any(not math.isnan(value.mean) for value in values)
    }
    rows = [
        [style_of(one.method).title, _rate(one), *cells]
        for one, *cells in zip(board.standings, *shown.values(), strict=True)
    ]
    title = f"Each method at its best learning rate of {sweep} (* at the edge)"
    return Grid(title, ["method", "learning rate", *shown], rows)


def _rate(standing: Standing) -> str:
    size = f"n {standing.n}" + (f", {standing.diverged} diverged" if standing.diverged else "")
    return f"{standing.learning_rate:g}{'*' if standing.at_edge else ''}\n{size}"


def _mean(value: Mean) -> str:
    if math.isnan(value.mean):
        return NOTHING
    digits = 3 if abs(value.mean) < 10 else 1
    text = f"{value.mean:.{digits}f}"
    return text if math.isnan(value.low) else f"{text}\n[{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _against_the_baseline(board: Leaderboard) -> Grid:
    ours, baseline = style_of(OURS).title, style_of(BASELINE).title
    methods = [one.method for one in board.standings if one.method != BASELINE]
    matched = {method: board.matched[method] for method in methods if method in board.matched}
    scores = [
        name
        for name, metric in SCORE_NAMES.items()
        if any(not math.isnan(one.scores[metric].found.estimate) for one in matched.values())
    ]
    headings = ["method"]
    if matched:
        headings += ["rate of equal\nmean local KL", *(f"{name} there" for name in scores)]
        headings += [f"{ours} minus this method,\nfinal score there"]
    empty = [NOTHING] * (len(headings) - 1)
    rows = [
        [
            style_of(method).title,
            *(_matched(matched[method], scores) if method in matched else empty),
            *(_compared(board.along.get(claim, {}).get(method)) for claim in ALONG_THE_SWEEP),
        ]
        for method in methods
    ]
    headings += [ALONG[claim] for claim in ALONG_THE_SWEEP]
    placebo = [_interval(board.placebos.get(claim)) for claim in ALONG_THE_SWEEP]
    rows.append([f"placebo: {baseline}, lower rates minus higher", *empty, *placebo])
    return Grid(f"Each method minus {baseline}, seed by seed", headings, rows)


def _matched(matched: Matched, scores: list[str]) -> list[str]:
    cells = [_compared(matched.scores[SCORE_NAMES[name]]) for name in scores]
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
