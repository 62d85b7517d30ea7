"""Every page of the site, in a browser: at a desk and on a phone, light and dark."""

import re
from pathlib import Path

import pytest
from accessible import sideways, violations

pytestmark = pytest.mark.site
ROOT = Path(__file__).parents[2]
NAV = re.findall(r"([\w/.-]+\.(?:md|ipynb))\"?$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
PAGES = [*NAV, "404.html"]
LESSONS = [path.stem for path in sorted((ROOT / "tutorials").glob("[0-9]_*.ipynb"))]


def address(source):
    """Where the site has the page of a file."""
    if source.endswith(".html"):
        return source
    name = re.sub(r"(^|/)README\.md$", r"\1", source)
    return name if name.endswith("/") or not name else name.rpartition(".")[0] + "/"


def test_these_are_all_pages_of_the_site():
    built = [path.relative_to(ROOT / "site").as_posix() for path in (ROOT / "site").rglob("*.html")]
    assert sorted(map(address, PAGES)) == sorted(name.removesuffix("index.html") for name in built)


@pytest.mark.parametrize("source", PAGES)
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_page_fits_and_is_accessible(source, width, dark, visit, site):
    page = visit(site + address(source), width=width, dark=dark)
    assert page.locator("h1").count() == 1
    assert sideways(page) == []
    assert violations(page) == []


@pytest.mark.parametrize("source", NAV)
def test_pictures_are_described_and_formulas_are_mathematics(source, visit, site):
    page = visit(site + address(source))
    for picture in page.locator("article img").all():
        text = picture.get_attribute("alt")
        assert text and "No description" not in text
    shown = page.locator("article").evaluate(
        """article => {
            const prose = article.cloneNode(true);
            prose.querySelectorAll("code, pre, script, style").forEach((one) => one.remove());
            return prose.textContent;
        }"""
    )
    assert not re.search(r"\$\$|\\\(|\\\[|\\(frac|langle|rho|sum)\b|\$[^$]*[\\^_][^$]*\$", shown), source


@pytest.mark.parametrize("source", NAV)
def test_pictures_and_columns_are_legible_on_a_phone(source, visit, site):
    page = visit(site + address(source), width=390)
    small = page.evaluate(
        """[...document.querySelectorAll("article img:not([src$='.svg'])")]
            .filter((one) => one.getBoundingClientRect().width < 0.74 * one.naturalWidth).map((one) => one.alt)"""
    )
    assert small == []
    broken = page.evaluate(
        """[...document.querySelectorAll("pre.columns")]
            .filter((one) => getComputedStyle(one).whiteSpace !== "pre").map((one) => one.textContent)"""
    )
    assert broken == []


def test_the_course_is_read_from_its_index_to_its_end_and_back(visit, site):
    page = visit(site + "docs/course/")
    assert page.locator("article table a").count() == len(LESSONS)
    for lesson in LESSONS:
        page.locator(".md-footer__link--next").click()
        page.wait_for_url(f"**/tutorials/{lesson}/")
    for lesson in reversed(LESSONS[:-1]):
        page.locator(".md-footer__link--prev").click()
        page.wait_for_url(f"**/tutorials/{lesson}/")
    page.locator(".md-footer__link--prev").click()
    page.wait_for_url("**/docs/course/")


def test_lessons_are_found_in_the_navigation_and_by_search(visit, site):
    page = visit(site)
    assert page.locator(f".md-nav a[href='tutorials/{LESSONS[0]}/']").count() >= 1
    page.locator("[data-md-component=search-query]").fill("Gauss-Seidel")
    page.locator(".md-search-result__item").first.wait_for()
