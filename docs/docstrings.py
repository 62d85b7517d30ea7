"""Griffe reads docstrings for MkDocs; here ours become Markdown. They put a name, a colon and what it is on a line."""

from __future__ import annotations

import re
from typing import Any

import griffe

NAMED = re.compile(r"^([a-z][\w-]*(?:, [a-z][\w-]*)*): ", re.MULTILINE)
ROLE = re.compile(r":(?:func|class|mod):(?=`)")
SHAPE = re.compile(r"\[\*(?=\w)")  # [*batch, B] would begin emphasis


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = "\n\n".join(_markdown(part) for part in obj.docstring.value.split("\n\n"))


def _markdown(paragraph: str) -> str:
    if all(line.startswith("    ") for line in paragraph.splitlines()):  # code
        return paragraph
    paragraph = ROLE.sub("", paragraph)
    if NAMED.match(paragraph):  # else the colon is one of prose
        paragraph = NAMED.sub(r"\n- **\1**: ", paragraph)
    code = re.compile(r"(`+.*?`+)", re.DOTALL).split(paragraph)
    return "".join(part if number % 2 else SHAPE.sub(r"[\\*", part) for number, part in enumerate(code))
