"""The links of the built site, and that a dead one would be found."""

from pathlib import Path

import pytest

from docs.links import dead_links

pytestmark = pytest.mark.site
SITE = Path(__file__).parents[2] / "site"


def test_no_link_of_any_page_is_dead():
    assert (SITE / "index.html").exists(), "build the site first: mkdocs build"
    assert dead_links(SITE) == []


def test_a_dead_link_is_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top">A page</h1><a href="#top">1</a><a href="sub/">2</a><a href="/sub/#there">3</a>'
        '<a href="https://elsewhere.org/x">4</a><a href="#gone">5</a><img src="gone.png">'
    )
    (tmp_path / "sub" / "index.html").write_text('<p id="there"></p><a href="..">6</a><a href="../#gone">7</a>')
    assert dead_links(tmp_path) == [
        "index.html links to #gone",
        "index.html links to gone.png",
        "sub/index.html links to ../#gone",
    ]
