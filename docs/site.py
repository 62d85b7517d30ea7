"""What MkDocs does here beyond its configuration: it finds the pages where they lie, and fills in tables.

A comment ``<!-- settings: WHOSE -->`` in a page becomes a table of settings, from their docstrings: a method's own, or
what all methods have. ``<!-- claims: BASELINE -->`` becomes what came out for the paper's claims against a baseline, or
all of them, from the ``claims.json`` of ladders that are kept in ``benchmarks/results/claims``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from proma_bench.config.base import RunConfig
from proma_bench.report.claims import CLAIMS, Finding
from proma_bench.report.matrix import PROTOCOLS, SYMBOLS, figures

ROOT = Path(__file__).parents[1]
SHOWN = ("*.md", "docs/**/*.md", "docs/*.png", "benchmarks/*.md", "benchmarks/plots/*.png", "tutorials/*.ipynb")
LINKED = ("proma_bench/**/*.py", "benchmarks/*.py", "tests/*.py", "tutorials/*.py", "examples/*")
PUBLISHED = ROOT / "benchmarks" / "results" / "claims"
MARKER = re.compile(r"<!-- (settings|claims): (.+?) -->")

FORMULA = re.compile(r"<(pre|code|script|style)\b.*?</\1>|\$\$(.+?)\$\$|\$(?![\s\d])([^$<]+?)(?<!\s)\$", re.DOTALL)


@event_priority(100)  # before the plugins that look for their own files among these
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The site has the repository's files in the repository's folders, so that their links are right in both."""
    theirs = [file for file in files if file.src_dir != config.docs_dir]
    ours = [path for pattern in (*SHOWN, *LINKED) for path in sorted(ROOT.glob(pattern))]
    names = [path.relative_to(ROOT).as_posix() for path in ours]
    return Files([*theirs, *(File(name, str(ROOT), config.site_dir, config.use_directory_urls) for name in names)])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the tables."""
    return MARKER.sub(lambda found: TABLES[found[1]](found[2]), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """In notebooks, what renders them leaves links to other pages and formulas as they are."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    html = re.sub(r'href="(\.\./[^":]+)\.md"', r'href="../\1/"', html)
    return FORMULA.sub(lambda found: found[0] if found[1] else _mathml(found[2], found[3]), html)


def _mathml(block: str | None, inline: str | None) -> str:
    """What browsers show without a script."""
    return convert(unescape(block or inline or ""), display="block" if block else "inline")


def settings(whose: str) -> str:
    """``PROMA``, ``GRPO``, or ``all`` for what every method has."""
    documented = griffe.load("proma_bench.config.base", search_paths=[str(ROOT)])["RunConfig"].members
    texts = {field: documented[field.name].docstring.value for field in dataclasses.fields(RunConfig)}
    rows = [
        (f"`--{field.name.replace('_', '-')}`", f"`{field.default}`", text.removeprefix(f"{whose} only: "))
        for field, text in texts.items()
        if (text.startswith(f"{whose} only: ") if whose != "all" else " only: " not in text)
    ]
    return _table(("setting", "default", ""), rows)


def claims(baseline: str) -> str:
    """What came out against a baseline, or against ``all``."""
    found = [Finding(**row) for path in sorted(PUBLISHED.glob("*.json")) for row in json.loads(path.read_text())]
    columns = list(dict.fromkeys((one.tier, one.protocol) for one in found))
    cells = {(one.claim, one.baseline, one.tier, one.protocol): one for one in found}
    rows = [
        (f"{claim.text} {against}", *(_cell(cells.get((claim.name, against, *column))) for column in columns))
        for claim in CLAIMS
        for against in claim.baselines
        if baseline in (against, "all")
    ]
    return _table(("with PROMA, ...", *(f"{tier}, {PROTOCOLS[protocol]}" for tier, protocol in columns)), rows)


def _cell(finding: Finding | None) -> str:
    if finding is None:
        return ""
    return f"{SYMBOLS[finding.verdict]} {finding.verdict}, n {finding.n}<br>{figures(finding)}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


TABLES: dict[str, Callable[[str], str]] = {"settings": settings, "claims": claims}
