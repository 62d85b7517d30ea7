"""The ablation: every variant is what its name says, runs, and has its row."""

import re

import pytest
from rich.console import Console
from small_runs import tiny

from proma_bench.cli import main
from proma_bench.experiments.ablation import ablate, variants
from proma_bench.runs.directory import read_json


def test_a_row_for_every_variant_and_no_run_twice(tmp_path, capsys):
    config = tiny(steps=2, seed=4, microbatch_size=8)
    for _ in range(2):
        ablate(config, 2, tmp_path, 2, Console(width=200))
    assert f"{2 * len(variants())} of {2 * len(variants())} runs are finished already" in capsys.readouterr().out
    table = (tmp_path / "ablation.md").read_text()
    for name in variants():
        assert len(re.findall(rf"^\| {re.escape(name)} \|", table, re.MULTILINE)) == 1
    assert "proma-bench run bandit --seed 4 --steps 2" in table and "--ablate --seeds 2" in table
    assert "[" not in table  # two seeds have no interval
    stored = [read_json(path) for path in sorted(tmp_path.rglob("config.json"))]
    assert len(stored) == 2 * len(variants()) and {run["seed"] for run in stored} == {4, 5}
    settings = {tuple(sorted((k, str(v)) for k, v in run.items() if k not in ("seed", "rule"))) for run in stored}
    assert len(settings) == len(variants())


def test_the_command_line_has_it(tmp_path, capsys):
    assert main(["run", "bandit", "--ablate", "--seeds", "0"]) == 2
    assert "seeds must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("name", variants())
def test_variants_change_what_is_asked_for_and_nothing_that_is_not_known(name):
    tiny(**{"method": "proma", **variants()[name]})
