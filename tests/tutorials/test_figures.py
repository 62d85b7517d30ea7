"""The figures of the lessons: one colour for each method, that of the report; and what a prediction is told."""

import re
from pathlib import Path

import figures
import matplotlib.pyplot as plt
import pytest
from checks import Outcome
from figures import tables

from proma_bench import console
from proma_bench.learning.methods import all_methods

HOME = Path(figures.__file__).parent
GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"


@pytest.mark.parametrize("method", ["reinforce", "grpo", "proma", "shrink", "elsewhere"])
def test_a_method_looks_as_in_the_report_and_its_variants_have_its_colour(method):
    style, own = all_methods()[method].style, figures.look(method)
    assert (own["color"], own["linestyle"], own["marker"]) == (style.colour, style.dashes, style.marker)
    variants = [figures.look(method, variant=number) for number in range(4)]
    assert {one["color"] for one in variants} == {style.colour}
    assert len({str(one["linestyle"]) + one["marker"] for one in variants}) == 4


def test_what_is_no_method_has_no_methods_colour():
    taken = {method.style.colour.lstrip("#").upper() for method in all_methods().values()} - {"000000"}
    cycle = [entry["color"].upper() for entry in plt.rcParams["axes.prop_cycle"]]
    assert len(cycle) == 5 and not taken & set(cycle)
    assert figures.SEQUENCE.lstrip("#") not in taken


def test_colours_of_methods_are_written_down_once():
    taken = {method.style.colour for method in all_methods().values()} - {"#000000", "#999999"}
    for path in HOME.glob("*.py"):
        assert not taken & set(re.findall(r"#[0-9A-F]{6}", path.read_text())), path.name


def test_a_symbol_of_the_glossary_has_one_row():
    symbols = []
    for line in GLOSSARY.read_text().split("## Words")[0].splitlines():
        if line.startswith("| $"):
            symbols += re.findall(r"\$(.+?)\$", line.split("|")[1])
    assert len(symbols) > 30
    assert len(symbols) == len(set(symbols))


@pytest.fixture
def displayed(monkeypatch):
    """The Markdown that was shown."""
    found = []
    monkeypatch.setattr(tables, "display", lambda one: found.append(one.data))
    return found


def test_a_table_shows_values_of_any_kind_and_lines_within_a_cell(displayed):
    tables.table(["run", "score\nat the end"], [["a|b", 0.5], ["c", None]])
    tables.table(["", "words"], iter([[1, "x"]]), numbers=False)
    assert displayed == [
        "| run | score<br>at the end |\n| --- | ---: |\n| a\\|b | 0.5 |\n| c | None |",
        "|  | words |\n| --- | --- |\n| 1 | x |",
    ]


def test_a_table_of_a_command_has_its_title(displayed):
    tables.as_printed(console.table("best (* at the edge)", ["method", "score"], [["grpo\nn 2", "1"]]))
    assert displayed == ["*best (\\* at the edge)*", "| method | score |\n| --- | --- |\n| grpo<br>n 2 | 1 |"]


def test_a_guess_is_compared_with_what_came_out():
    assert repr(Outcome(..., "b", "So it is.")) == "You made no guess. It is (b). So it is."
    assert repr(Outcome("(B)", "b", "")) == "You guessed (b), and so it is. "
    assert Outcome("a", "b", "Look.")._repr_markdown_() == "**You guessed (a), but it is (b).** Look."
