"""What notebooks' pages need beyond what renders them: links, descriptions of pictures, and columns that stay whole."""

from __future__ import annotations

import ast
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

LINK = re.compile(r'href="(?![a-z]+:|[/#])([^"#]+)(#[^"]*)?"')
UNDESCRIBED = 'alt="No description has been provided for this image"'
WORDS = {"set_title", "title", "suptitle", "set", "xlabel", "ylabel", "set_xlabel", "set_ylabel"}
SHAPE = re.compile(r" \[[^\]]*\]")
PRINTED = re.compile(r'(<div class="jp-RenderedText[^>]*>\s*)<pre>(.*?)</pre>', re.DOTALL)
COLUMNS = re.compile(r"\S {2,}\S")
MARKUP = re.compile(r"\\[a-z]+|[${}\\]")


def with_links(html: str, file: File, files: Files) -> str:
    """Links to other files lead to their pages.

    Raises:
        PluginError: the site does not have one.
    """

    def link(found: re.Match[str]) -> str:
        name = posixpath.normpath(posixpath.join(posixpath.dirname(file.src_uri), found[1]))
        target = files.get_file_from_path(name)
        if target is None:
            raise PluginError(f"{file.src_uri} links to {found[1]}, which the site does not have")
        return f'href="{target.url_relative_to(file)}{found[2] or ""}"'

    return LINK.sub(link, html)


def with_columns(html: str) -> str:
    """What a cell printed in columns is marked, so that its lines scroll on a phone; other lines are broken there."""

    def marked(found: re.Match[str]) -> str:
        in_columns = COLUMNS.search(re.sub(r"<[^>]*>", "", found[2]))
        return f'{found[1]}<pre class="columns">{found[2]}</pre>' if in_columns else found[0]

    return PRINTED.sub(marked, html)


def with_descriptions(html: str, notebook: Path) -> str:
    """Each picture has a text: of its output's metadata, or of what draws it, and what its cell writes into it."""
    drawing = notebook.parent / "figures" / f"lesson{notebook.name[0]}.py"
    drawn = _documented(drawing.read_text()) if drawing.exists() else {}
    for text in descriptions(json.loads(notebook.read_text()), drawn):
        html = html.replace(UNDESCRIBED, f'alt="{escape(text)}"', 1)
    return html


def descriptions(notebook: dict[str, Any], drawn: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
    """The description of each picture in a notebook, in order, with what is said of the functions that draw them."""
    section = ""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            section = (re.findall(r"^#+ (.*)$", source, re.MULTILINE) or [section])[-1]
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                given = output.get("metadata", {}).get("image/png", {}).get("alt")
                yield given or ". ".join([f"Figure of “{section}”", *_said(source, drawn), *_words(source)])


def _documented(module: str) -> dict[str, str]:
    """The first line about each function of a lesson's figures, without shapes and the full stop."""
    functions = [node for node in ast.parse(module).body if isinstance(node, ast.FunctionDef)]
    first = {node.name: (ast.get_docstring(node) or "").partition("\n")[0] for node in functions}
    lines = {name: SHAPE.sub("", line).rstrip(".") for name, line in first.items()}
    return {name: line for name, line in lines.items() if line}


def _said(source: str, drawn: Mapping[str, str]) -> list[str]:
    """What is said of the functions `draw.NAME` that a cell calls."""
    return list(dict.fromkeys(drawn[name] for name in re.findall(r"\bdraw\.(\w+)\(", source) if name in drawn))


def _words(source: str) -> list[str]:
    """The titles and labels that a cell gives to its figure, without mathematical markup."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in WORDS]
    values = [
        value for call in named for value in (*call.args, *(word.value for word in call.keywords if word.arg in WORDS))
    ]
    texts = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return list(dict.fromkeys(MARKUP.sub("", text).strip() for text in texts))
