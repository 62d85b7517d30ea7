"""Writes the tables of settings and of claims into the pages of this folder.

python -m docs.tables            between each ``<!-- KIND: NAME -->`` and its end; the kinds are those of `TABLES`
python -m docs.tables --check    fail where a page has another one

Lessons are those of the README (``python -m tutorials table``). Settings come from the configurations of the tiers
and their docstrings, methods from their table, claims from the ``claims.json`` of ladders that are kept in
``benchmarks/results/claims``.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from docs.marked import between_markers
from proma_bench.learning.config import RunConfig
from proma_bench.learning.methods import METHODS, OTHER_METHODS
from proma_bench.report.claims import CLAIMS
from proma_bench.report.judging import ClaimResult
from proma_bench.report.markdown import markdown_table
from proma_bench.report.matrix import PROTOCOLS, SYMBOLS, details, figures, size
from proma_bench.tiers import TIERS

HOME = Path(__file__).parent
PUBLISHED = HOME.parent / "benchmarks" / "results" / "claims"
MARKER = re.compile(r"<!-- ((settings|claims|methods|lessons): (\w+)) -->")
ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")
OPTION = re.compile(r"(--[a-z-]+)")
ADVANTAGES = {
    "group_advantages": "as GRPO",
    "centred_advantages": "reward − mean of the group",
    "leave_one_out_advantages": "reward − mean of the others in the group",
}
WEIGHTS = {None: "as the setting says", "sum": "summed per sequence", "sequence-mean": "sequences equally"}


def settings(whose: str) -> str:
    """A method's own settings, or for ``all`` those that every method has, with the default on each tier."""
    import griffe  # not where the tests run, which need the rest of this module

    documented = griffe.load("proma_bench.learning.config", search_paths=[str(HOME.parent)])["RunConfig"].members
    tiers = [config() for config in TIERS.values()]
    mark = "" if whose == "all" else f"{METHODS[whose].style.title} only: "
    rows = []
    for field in dataclasses.fields(RunConfig):
        text = " ".join(documented[field.name].docstring.value.split())
        if text.startswith(mark) and (mark or " only: " not in text):
            option, defaults = f"--{field.name.replace('_', '-')}", [getattr(tier, field.name) for tier in tiers]
            rows.append((*(f"`{cell}`" for cell in (option, *defaults)), text.removeprefix(mark)))
    return markdown_table(("setting", *TIERS, ""), rows, numbers=False)


def claims(baseline: str) -> str:
    """What came out for the paper's claims against a baseline, or for ``all`` against both."""
    found = [ClaimResult(**row) for path in sorted(PUBLISHED.glob("*.json")) for row in json.loads(path.read_text())]
    place = {tier: number for number, tier in enumerate(TIERS)}
    columns = sorted(
        dict.fromkeys((_title(one), one.protocol) for one in found), key=lambda at: place[at[0].split("/")[0]]
    )
    cells = {(one.claim, one.baseline, _title(one), one.protocol): one for one in found}
    if len(cells) < len(found):
        raise ValueError(f"{PUBLISHED} has a claim twice for one tier and protocol")
    rows = []
    for claim in CLAIMS.values():
        for against in claim.baselines:
            if baseline in (against, "all"):
                row = [_cell(cells.get((claim.name, against, *column))) for column in columns]
                rows.append((f"{claim.text} than with {METHODS[against].style.title}", *row))
    return markdown_table(
        ("with PROMA, ...", *(f"{tier}, {PROTOCOLS[protocol]}" for tier, protocol in columns)), rows, numbers=False
    )


def _title(result: ClaimResult) -> str:
    return result.tier if result.task is None else f"{result.tier}/{result.task}"


def _cell(result: ClaimResult | None) -> str:
    if result is None:
        return ""
    return "<br>".join(
        [f"{SYMBOLS[result.verdict]} {result.verdict}, {size(result)}", figures(result), *details(result)]
    )


def methods(kind: str) -> str:
    """The update rules (``rules``), or the methods with another objective (``objectives``), with their sources."""
    if kind == "rules":
        rules = [METHODS["proma"], *(method for method in OTHER_METHODS.values() if method.projects)]
        rows = [(f"`{method.name}`", *map(linked, (method.formula, method.source))) for method in rules]
        return markdown_table(("`--method`", "coefficients `u`, factor `κ`", "source"), rows, numbers=False)
    rows = [
        (
            f"`{method.name}`",
            OPTION.sub(r"`\1`", method.formula),
            ADVANTAGES[method.advantages_function.__name__],
            WEIGHTS[method.loss_aggregation],
            linked(method.source),
        )
        for method in OTHER_METHODS.values()
        if not method.projects
    ]
    headings = ("`--method`", "objective of a row", "advantage", "rows weighted", "source")
    return markdown_table(headings, rows, numbers=False)


def lessons(page: str) -> str:
    """The README's table of lessons, as a page of this folder links to them."""
    readme = (HOME.parent / "README.md").read_text()
    table = readme.partition("<!-- lessons -->")[2].partition("<!-- /lessons -->")[0].strip()
    return table.replace("](tutorials/", "](../tutorials/")


def linked(text: str) -> str:
    """With a link for each number of arXiv."""
    return ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)


TABLES: dict[str, Callable[[str], str]] = {
    "settings": settings, "claims": claims, "methods": methods, "lessons": lessons,
}  # fmt: skip
NAMES = {
    "settings": {*METHODS, "all"}, "claims": {*METHODS, "all"}, "methods": {"rules", "objectives"},
    "lessons": {"course"},
}  # fmt: skip


def filled(page: str) -> str:
    """The page with its tables as they should be.

    Raises:
        ValueError: a marker has no end, or names something that does not exist.
    """
    for marker, kind, name in MARKER.findall(page):
        if name not in NAMES[kind]:
            raise ValueError(f"no table of {kind} has the name {name}")
        replaced = between_markers(page, marker, TABLES[kind](name))
        if replaced is None:
            raise ValueError(f"<!-- {marker} --> has no end")
        page = replaced
    return page


def main(arguments: Sequence[str]) -> int:
    pages = {path: path.read_text() for path in sorted(HOME.rglob("*.md"))}
    stale = {path: new for path, old in pages.items() if (new := filled(old)) != old}
    for path, new in stale.items():
        if "--check" in arguments:
            print(f"{path.relative_to(HOME.parent)}: a table is not up to date; python -m docs.tables writes it")
        else:
            path.write_text(new)
    return int("--check" in arguments and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
