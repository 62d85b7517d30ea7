"""Every link of a built site leads somewhere: to a file that is there and, with ``#``, to a place that the page has.

Those of notebooks, too, which MkDocs does not see. Links to other sites are not followed.
"""

from __future__ import annotations

import functools
import html.parser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(html.parser.HTMLParser):
    """The links of a page, and the places in it that a link may name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("href", "src") and value is not None:
                self.links.append(value)
            elif value is not None and (name == "id" or (name == "name" and tag == "a")):
                self.places.add(value)


def dead_links(site: Path, base: str = "/") -> list[str]:
    """Each link that leads nowhere, with the page that has it.

    Args:
        site: the folder of the built site.
        base: where the site will be served; what begins with it is looked for in the folder.
    """
    read = functools.cache(_Page)
    dead = []
    for path in sorted(site.rglob("*.html")):
        for link in dict.fromkeys(read(path).links):
            scheme, host, name, _, place = urlsplit(link)
            if scheme or host:
                continue
            start = site if name.startswith("/") else path.parent
            target = (
                (start / unquote(name.removeprefix(base) if name.startswith("/") else name)).resolve() if name else path
            )
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (
                place and target.suffix == ".html" and unquote(place) not in read(target).places
            ):
                dead.append(f"{path.relative_to(site)} links to {link}")
    return dead
