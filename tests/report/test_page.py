"""The page: whole in itself, and whatever the runs say is text and nothing else."""

import base64
import html.parser
import json
import re
import urllib.parse

import numpy as np
import pytest
from made_up_runs import made_up, store

from proma_bench.cli import main
from proma_bench.report.judging import evaluate
from proma_bench.report.plots import file_name, plain
from proma_bench.report.reading import read_runs
from proma_bench.report.settings import commands, run_command, settings
from proma_bench.report.statistics import cells
from proma_bench.report.table import as_grid, summary_table
from proma_bench.tiers import TIERS

EVIL = "<script src=http://evil.example/>\"'&{{7*7}}$\\bad$[/red]"


class Page(html.parser.HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data


def sweep_of_runs(root, name="", seeds=3):
    """All methods, two learning rates, and what PROMA removed from two layers."""
    score = list(np.linspace(0.1, 0.9, 12))
    for method in ("reinforce", "grpo", "proma"):
        for rate in (0.1, 0.2):
            for seed in range(seeds):
                path = root / f"{method}{name and 'é #?'}" / f"{rate}" / f"{seed}"
                run = made_up(path, method, seed, rate, score=score, entropy=[2 - s for s in score])
                for step in run.metrics:
                    step["removed_by_layer"] = {f"a{name}": 0.25, "b": None} if method == "proma" else None
                run.config.update(
                    title=f"gym/{name or 'CartPole-v1'}", tier="gym", versions={f"torch{name}": name or "2"}
                )
                store(run)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    sweep_of_runs(root)
    assert main(["report", str(root)]) == 0
    return root, Page((root / "report.html").read_text())


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    root = tmp_path_factory.mktemp("evil")
    sweep_of_runs(root, EVIL)
    store(made_up(root / "own", method=EVIL, tier=EVIL, **{EVIL: 1.0}))
    assert main(["report", str(root)]) == 0
    return root, Page((root / "report.html").read_text())


@pytest.mark.parametrize("kind", ["page", "evil"])
def test_no_request_leaves_the_page(kind, request):
    _, page = request.getfixturevalue(kind)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for name, value in page.attributes:
        if name == "src":
            assert value.startswith("data:image/svg+xml;base64,")
            assert not re.search(rb"""(href|src)=["'](?!#|data:image/png)""", base64.b64decode(value.partition(",")[2]))
        assert name not in ("srcset", "action", "background", "poster") and not name.startswith("on")
        assert name != "style" or "url(" not in value
    assert "@import" not in page.text and "url(" not in page.text


@pytest.mark.parametrize("kind", ["page", "evil"])
def test_links_are_relative_and_lead_to_the_raw_files(kind, request):
    root, page = request.getfixturevalue(kind)
    links = [value for name, value in page.attributes if name == "href"]
    assert len(links) >= 1 + 18 * 3
    for link in links:
        if link.startswith("#"):
            assert ("id", link[1:]) in page.attributes
            continue
        assert not urllib.parse.urlsplit(link).scheme and not link.startswith("/")
        assert (root / urllib.parse.unquote(link)).exists()


def test_it_has_the_matrix_four_figures_settings_versions_and_the_command(page):
    _, page = page
    assert page.tags.count("img") == 4
    for text in (
        "same settings",
        "frontier",
        "lr 0.1, 0.2",
        "? inconclusive",
        "n 3",
        "learning_rate",
        "0 to 2",
        "torch 2",
    ):
        assert text in page.text
    assert "proma-bench run gym --method proma" in page.text
    assert page.text.index("Claims") < page.text.index("gym/CartPole-v1", page.text.index("the criteria"))


def test_it_has_the_table_of_methods_and_metrics_that_the_terminal_shows(page):
    root, page = page
    (tier,) = evaluate(read_runs(root).runs)
    title, headings, rows = as_grid(summary_table(tier.comparable.title, cells(tier.comparable.members)))
    assert len(rows) == 6 and any("local KL" in heading for heading in headings)
    for text in (title, *headings, *(cell for row in rows for cell in row)):
        assert text in page.text


@pytest.mark.parametrize("matched", [False, True])
def test_the_command_names_match_kl_where_it_was_given(matched, tmp_path):
    plan = {"tiers": ["bandit"], "budget": "smoke", "seeds": 5, "methods": ["reinforce", "proma"]}
    (tmp_path / "ladder.json").write_text(json.dumps({**plan, **({"match_kl": True} if matched else {})}))
    (command,) = commands(tmp_path, [])
    assert command == (
        "proma-bench ladder --tiers bandit --budget smoke --seeds 5 --methods reinforce,proma"
        + matched * " --match-kl"
    )  # fmt: skip


def test_names_from_runs_are_shown_as_they_are(evil):
    root, page = evil
    assert EVIL in page.text
    assert "49" not in re.findall(r"\{\{.*?\}\}|49", page.text)
    assert f"unknown metric {EVIL!r}" in page.text
    assert {path.name for path in (root / "plots").iterdir()} == {
        f"{file_name(name)}.png" for name in (f"gym/{EVIL}", EVIL)
    }


def test_the_same_runs_give_the_same_page(page):
    root, _ = page
    before = (root / "report.html").read_bytes(), (root / "claims.json").read_bytes()
    assert main(["report", str(root)]) == 0
    assert before == ((root / "report.html").read_bytes(), (root / "claims.json").read_bytes())


def test_names_of_files_stay_in_their_folder():
    assert file_name("../../etc/passwd") == "etc-passwd"
    assert file_name("gym/CartPole-v1") == "gym-CartPole-v1"
    assert file_name("///") == "tier"
    assert plain("a$b\né") == "a\\$b \\xe9"


def test_the_command_of_a_run_names_what_is_not_the_default():
    config = {"tier": "bandit", "method": "grpo", "seed": 3, "steps": TIERS["bandit"].steps, "shuffle": False,
              "learning_rate": 0.02, "max_removed": None, "versions": {}, "criteria": {}, "format": 1,
              "title": "bandit"}  # fmt: skip
    assert run_command(config) == (
        "proma-bench run bandit --method grpo --seed 3 --no-shuffle --learning-rate 0.02 --max-removed None"
    )
    assert run_command({"tier": "a b", "x": "$(rm)"}) == "proma-bench run 'a b' --x '$(rm)'"


def test_settings_that_differ_are_listed(tmp_path):
    runs = [made_up(tmp_path, method, seed) for method in ("proma", "grpo") for seed in range(3)]
    assert settings(runs) == {
        "learning_rate": "0.1", "method": "proma, grpo", "seed": "0 to 2", "steps": "4", "tier": "bandit",
    }  # fmt: skip
