"""Writes the tables, figures, sentences and cards of docs/leaderboard.md, and README's sentences, from stored runs.

python -m docs.leaderboard            write them
python -m docs.leaderboard --check    fail if the page has others
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import confirmation
from benchmarks.stored_runs import HOME as STORED
from benchmarks.stored_runs import unpack
from docs.marked import between_markers
from docs.sentences import sentences
from docs.tables import OPTION, linked
from proma_bench.learning.config import RunConfig
from proma_bench.learning.methods import Method, all_methods
from proma_bench.projection.rules import UPDATE_RULES
from proma_bench.report.against import Compared
from proma_bench.report.judging import TierClaims, evaluate
from proma_bench.report.leaderboard import Leaderboard, leaderboard
from proma_bench.report.markdown import markdown_table
from proma_bench.report.matrix import SYMBOLS
from proma_bench.report.paired import Comparable
from proma_bench.report.plots import png, score_by_kl
from proma_bench.report.standings import ALONG, Grid, grids
from proma_bench.runs.matching import BASELINE

HOME = Path(__file__).parent
PAGE = HOME / "leaderboard.md"
README = HOME.parent / "README.md"
RULES = HOME / "rules.md"
FRONT = HOME / "front.png"
"""Of README: the bandit, with these methods alone."""
IN_FRONT = ("reinforce", "grpo", "proma", "isopo", "shrink", "elsewhere", "gspo", "trpo")


class Tier(NamedTuple):
    """One tier of the page, under the name of its file."""

    name: str
    claims: TierClaims
    board: Leaderboard


@functools.cache
def tiers() -> list[Tier]:
    """Those that have stored runs, small policies first."""
    found = []
    for path in sorted(STORED.glob("*.jsonl.gz")):
        (claims,) = evaluate(unpack(path))
        board = leaderboard(claims)
        assert board is not None, path
        found.append(Tier(path.name.removesuffix(".jsonl.gz"), claims, board))
    return found


def tables(tier: Tier) -> str:
    """The two tables of a tier, and its figure."""
    of_tier = "\n\n".join(f"**{grid.title}**\n\n{_markdown(grid)}" for grid in grids(tier.board))
    figure = f"![Final scores against mean local KL: one line for each method]({_figure(tier).name})"
    return f"{of_tier}\n\n{figure}"


def _markdown(grid: Grid) -> str:
    return markdown_table(grid.headings, [[cell.replace("\n", "<br>") for cell in row] for row in grid.rows])


def _figure(tier: Tier) -> Path:
    return HOME / f"leaderboard-{tier.name}.png"


# ---------------------------------------------------------------------------------------------- method cards


def cards() -> str:
    """One for each method that has a place on a leaderboard."""
    placed = {one.method for tier in tiers() for one in tier.board.standings}
    return "\n\n".join(_card(method) for name, method in all_methods().items() if name in placed)


def _card(method: Method) -> str:
    formula = OPTION.sub(r"`\1`", method.formula)
    lines = [f"### {method.style.title}", f"`--method {method.name}` · {formula} · {linked(method.source)}", ""]
    if settings := _settings(method):
        lines.append(f"- settings: {settings}")
    if method.projects and (promises := _promises(method.name)):
        lines.append(f"- [keeps](rules.md): {promises}")
    lines += [f"- {tier.board.title}: {_place(tier.board, method.name)}" for tier in tiers()]
    return "\n".join(lines)


def _settings(method: Method) -> str:
    """Its own options with their defaults, and those of its rule."""
    options = {field.name: field.default for field in dataclasses.fields(RunConfig)}
    own = [
        f"`--{name.replace('_', '-')} {options[name]}`"
        for name in options
        if name in method.settings and name not in ("rule_settings", "uncovered")
    ]
    rule = UPDATE_RULES.get(method.rule or "")
    fields = dataclasses.fields(rule) if rule is not None else ()  # type: ignore[arg-type]
    of_rule = [f"`{field.name} {field.default}`" for field in fields if field.name != "projection"]
    return ", ".join(own + ([f"`--rule-settings` with {', '.join(of_rule)}"] if of_rule else []))


def _promises(name: str) -> str:
    """As the table of docs/rules.md has them."""
    rows = [line.strip("| ").split(" | ") for line in RULES.read_text().splitlines() if line.startswith("| ")]
    heading = next(row for row in rows if "✓" not in row and any("first" in cell for cell in row))
    mine = next((row for row in rows if row[0] == f"`{name}`" and {"✓", "–"} & set(row)), None)
    if mine is None:
        return ""
    return ", ".join(promise for promise, kept in zip(heading[-len(mine[1:]) :], mine[1:], strict=True) if kept == "✓")


def _place(board: Leaderboard, name: str) -> str:
    mine = next((one for one in board.standings if one.method == name), None)
    if mine is None:
        return "did not run"
    place = 1 + sum(one.score.mean > mine.score.mean for one in board.standings)
    words = [f"best score {mine.score.mean:.3g}, place {place} of {len(board.standings)}"]
    if name == BASELINE:
        return words[0]
    against = {ALONG[claim]: of_claim[name] for claim, of_claim in board.along.items() if name in of_claim}
    if name in board.matched:
        against = {"final score at the matched rate": board.matched[name].scores["score"], **against}
    else:
        words.append("no rate of equal mean local KL within the sweep")
    for verdict, heading in (("holds", "wins"), ("fails", "loses")):
        if told := [_told(what, one) for what, one in against.items() if one.verdict == verdict]:
            words.append(f"{heading} against {all_methods()[BASELINE].style.title}: {', '.join(told)}")
    if open_ := [what for what, one in against.items() if one.verdict == "inconclusive"]:
        words.append(f"not decided: {', '.join(open_)}")
    return "; ".join(words)


def _told(what: str, compared: Compared) -> str:
    return f"{what} ({SYMBOLS[compared.verdict]} {compared.found.estimate:+.2g})"


def filled(text: str, contents: Mapping[str, str]) -> str:
    """The text with contents between their markers.

    Raises:
        ValueError: a place for one of them is missing.
    """
    for marker, content in contents.items():
        replaced = between_markers(text, marker, content)
        if replaced is None:
            raise ValueError(f"there is no <!-- {marker} --> with its end")
        text = replaced
    return text


def main(arguments: Sequence[str]) -> int:
    told = {"five sentences": sentences({tier.name: tier.board for tier in tiers()}, confirmation.compared())}
    of_page = (
        told
        | {"confirmation": confirmation.table()}
        | {f"leaderboard: {tier.name}": tables(tier) for tier in tiers()}
        | {"cards": cards()}
    )
    texts = {path: path.read_text() for path in (PAGE, README)}
    new = {PAGE: filled(texts[PAGE], of_page), README: filled(texts[README], told)}
    if "--check" in arguments:
        return int(new != texts)
    for path, text in new.items():
        path.write_text(text)
    for tier in tiers():
        _draw(tier.claims.comparable, tier.board.rates, _figure(tier))
        if tier.name == "bandit":
            shown = {key: run for key, run in tier.claims.comparable.runs.items() if key[0] in IN_FRONT}
            _draw(dataclasses.replace(tier.claims.comparable, runs=shown), tier.board.rates, FRONT)
    return 0


def _draw(found: Comparable, rates: Sequence[float], path: Path) -> None:
    figure = score_by_kl(found, rates)
    assert figure is not None
    path.write_bytes(png(figure))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
