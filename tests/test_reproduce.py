"""`benchmarks.reproduce` runs a stored run again."""

import dataclasses

import pytest

from benchmarks import reproduce
from benchmarks.stored_runs import pack
from proma_bench.experiments.run import run_in
from proma_bench.tiers.bandit.config import BanditConfig

CONFIG = BanditConfig(method="grpo", steps=2, initial_states=4, hidden=16, seed=7, learning_rate=0.02)


@pytest.fixture
def stored(tmp_path):
    run = run_in(tmp_path / "grpo" / "seed-7", CONFIG)
    path = tmp_path / "runs.jsonl.gz"
    pack([dataclasses.replace(run, path=run.path.relative_to(tmp_path))], path)
    return path


def test_it_lists_runs(stored, capsys):
    assert reproduce.main([str(stored)]) == 0
    assert capsys.readouterr().out == "grpo/seed-7\n"


def test_a_run_gives_its_numbers_again(stored, capsys):
    assert reproduce.main([str(stored), "grpo/seed-7"]) == 0
    command, *lines = capsys.readouterr().out.splitlines()
    assert command.startswith("proma-bench run bandit --method grpo --seed 7 --steps 2")
    assert len(lines) == len(reproduce.COMPARED)
    for line in lines:
        name, _, before, _, now = line.split()
        assert name in reproduce.COMPARED and float(before) == pytest.approx(float(now), rel=1e-4)


def test_a_run_that_is_not_there_is_one_line(stored, capsys):
    assert reproduce.main([str(stored), "proma/seed-7"]) == 2
    assert "has no run proma/seed-7" in capsys.readouterr().err
