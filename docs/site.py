"""What MkDocs does here beyond its configuration: it finds the pages where they lie, and finishes the notebooks."""

from __future__ import annotations

import posixpath
import re
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SHOWN = (
    "*.md", "docs/**/*.md", "docs/*.png", "benchmarks/*.md", "benchmarks/plans/*.md", "benchmarks/plots/*.png",
    "tutorials/*.ipynb",
)  # fmt: skip
LINKED = ("proma_bench/**/*.py", "benchmarks/*.py", "tests/**/*.py", "tutorials/*.py", "examples/**/*.*")
LINK = re.compile(r'href="(\.\.?/[^"#]+)(#[^"]*)?"')
FORMULA = re.compile(r"<(pre|code|script|style)\b.*?</\1>|\$\$(.+?)\$\$|\$(?![\s\d])([^$<]+?)(?<!\s)\$", re.DOTALL)


@event_priority(100)  # before the plugins that look for their own files among these
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The site has the repository's files in the repository's folders, so that their links are right in both."""
    theirs = [file for file in files if file.src_dir != config.docs_dir]
    ours = [path for pattern in (*SHOWN, *LINKED) for path in sorted(ROOT.glob(pattern))]
    names = [path.relative_to(ROOT).as_posix() for path in ours]
    return Files([*theirs, *(File(name, str(ROOT), config.site_dir, config.use_directory_urls) for name in names)])


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """In notebooks, what renders them leaves links to other files and formulas as they are."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html

    def link(found: re.Match[str]) -> str:
        name = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), found[1]))
        target = files.get_file_from_path(name)
        if target is None:
            raise PluginError(f"{page.file.src_uri} links to {found[1]}, which the site does not have")
        return f'href="{target.url_relative_to(page.file)}{found[2] or ""}"'

    html = LINK.sub(link, html)
    return FORMULA.sub(lambda found: found[0] if found[1] else _mathml(found[2], found[3]), html)


def _mathml(block: str | None, inline: str | None) -> str:
    """What browsers show without a script."""
    return convert(unescape(block or inline or ""), display="block" if block else "inline")
