"""What programs write into pages stands between two markers: ``<!-- NAME -->`` and ``<!-- /NAME -->``."""

from __future__ import annotations

import re


def between_markers(text: str, marker: str, content: str) -> str | None:
    """Replace what stands between two markers.

    Args:
        text: of the page.
        marker: the name; what follows a colon in the opening one is not repeated in the closing one.
        content: what shall stand there, between empty lines.

    Returns:
        The new text; None if the page has no such markers.
    """
    opening, closing = f"<!-- {marker} -->", f"<!-- /{marker.partition(':')[0]} -->"
    pattern = re.compile(re.escape(opening) + ".*?" + re.escape(closing), re.DOTALL)
    if not pattern.search(text):
        return None
    return pattern.sub(lambda _: f"{opening}\n\n{content}\n\n{closing}", text, count=1)
