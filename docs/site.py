"""What MkDocs does here beyond its configuration: it finds the pages where they lie, and finishes them."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from links import dead_links
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebooks import with_columns, with_descriptions, with_links

ROOT = Path(__file__).parents[1]
WEB = ROOT / "docs" / "web"
SHOWN = (
    "*.md", "docs/**/*.md", "docs/*.png", "docs/*.svg", "docs/web/*.css", "docs/web/*.js", "benchmarks/*.md",
    "benchmarks/plans/*.md", "benchmarks/plots/*.png", "tutorials/*.ipynb",
)  # fmt: skip
LINKED = (
    "CITATION.cff",
    "proma_bench/**/*.py",
    "benchmarks/*.py",
    "tests/**/*.py",
    "tutorials/*.py",
    "examples/**/*.*",
)
FORMULA = re.compile(
    r"<(pre|code|script|style)\b.*?</\1>|\$\$(.+?)\$\$|\$(?!\s|\d[^$\\^_]*\$)([^$<]+?)(?<!\s)\$", re.DOTALL
)  # of notebooks; what begins with a digit and has no markup is a price
MARKED_FORMULA = re.compile(
    r'<div class="arithmatex">\\\[(.+?)\\\]</div>|<span class="arithmatex">\\\((.+?)\\\)</span>', re.DOTALL
)  # of Markdown
ARROWS = re.compile(r"<!-- arrows -->.*?<!-- /arrows -->", re.DOTALL)
SCRIPTS = ("formulas.js", "projection.js")


@event_priority(100)  # before the plugins that look for their own files among these
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The site has the repository's files in the repository's folders, so that their links are right in both."""
    theirs = [file for file in files if file.src_dir != config.docs_dir]
    ours = [path for pattern in (*SHOWN, *LINKED) for path in sorted(ROOT.glob(pattern))]
    names = [path.relative_to(ROOT).as_posix() for path in ours]
    return Files([*theirs, *(File(name, str(ROOT), config.site_dir, config.use_directory_urls) for name in names)])


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas become mathematics, a marked picture the arrows to drag; notebooks get links and descriptions."""
    if page.file.src_uri.endswith(".ipynb"):
        html = with_columns(with_links(html, page.file, files))
        html = with_descriptions(html, Path(page.file.abs_src_path or ""))
        html = FORMULA.sub(lambda found: found[0] if found[1] else _mathml(found[2], found[3]), html)
    else:
        html = MARKED_FORMULA.sub(lambda found: _mathml(found[1], found[2]), html)
    return ARROWS.sub(lambda found: _arrows(found[0], page, files), html)


def on_post_build(config: MkDocsConfig) -> None:
    """No link of any page leads nowhere."""
    if dead := dead_links(Path(config.site_dir)):
        raise PluginError("\n".join(["links that lead nowhere:", *dead]))


def _mathml(block: str | None, inline: str | None) -> str:
    """What browsers show without a script."""
    if block is None:
        return convert(unescape(inline or ""), display="inline")
    return f'<div class="formula">{convert(unescape(block), display="block")}</div>'


def _arrows(picture: str, page: Page, files: Files) -> str:
    """Without scripts the picture that stands there remains."""
    sources = [files.get_file_from_path(f"docs/web/{name}") for name in SCRIPTS]
    scripts = [f'<script src="{source.url_relative_to(page.file)}" defer></script>' for source in sources if source]
    return "\n".join([(WEB / "projection.html").read_text(), f"<noscript>{picture}</noscript>", *scripts])
