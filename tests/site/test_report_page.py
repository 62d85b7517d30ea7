"""report.html in a browser: at a desk and on a phone, light and dark."""

import numpy as np
import pytest
from accessible import sideways, violations
from made_up_runs import made_up, store

from proma_bench.cli import main

pytestmark = pytest.mark.site


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two tiers, one with a name that is long and has no place to break; all methods, at two learning rates."""
    root = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    for tier in ("bandit", "gym/" + 60 * "x"):
        for method in ("reinforce", "grpo", "proma"):
            for rate in (0.1, 0.2):
                for seed in range(5):
                    score = [*np.sort(random.random(12))]
                    path = root / f"{tier[:3]}-{method}-{rate}-{seed}"
                    curves = {"entropy": [2 - value for value in score], "kl_local": [*random.random(12)]}
                    run = made_up(path, method, seed, rate, tier=tier, score=score, **curves)
                    run.config.update(versions={"torch": "2"})
                    store(run)
    assert main(["report", str(root)]) == 0
    return root


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_report_fits_and_is_accessible(width, dark, visit, report):
    page = visit((report / "report.html").as_uri(), width=width, dark=dark)
    assert sideways(page) == []
    assert violations(page) == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 3 * 64) == dark


def test_no_verdict_breaks_in_mid_word(visit, report):
    page = visit((report / "report.html").as_uri(), width=390)
    heights = page.locator(".verdict").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height / parseFloat(getComputedStyle(one).fontSize))"
    )
    assert len(heights) > 10 and max(heights) < 2  # each is one line


def test_its_sections_are_reached_from_its_top(visit, report):
    page = visit((report / "report.html").as_uri(), width=390)
    for link in page.locator("nav a").all():
        link.click()
        target = page.locator(link.get_attribute("href"))
        assert target.evaluate("one => Math.abs(one.getBoundingClientRect().top)") < 200
        page.evaluate("scrollTo(0, 0)")
