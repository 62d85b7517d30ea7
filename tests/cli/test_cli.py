"""What the command line says to those who use it wrongly, and how fast it starts."""

import subprocess
import sys

import pytest
from small_runs import tiny

from proma_bench.cli import main
from proma_bench.experiments.run import run_in


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("lader", "unknown command 'lader'; did you mean 'ladder'?"),
        ("run bandti", "unknown tier 'bandti'; did you mean 'bandit'?"),
        ("run bandti --seed 3", "unknown tier 'bandti'; did you mean 'bandit'?"),
        ("run bandit --method gpro", "unknown method 'gpro'; did you mean 'grpo'?"),
        ("run bandit --steps 0", "steps must be at least 1, got 0"),
        ("run bandit --learning-rate nan", "learning_rate must be above 0, got nan"),
        ("run bandit --shrinkage 1.5", "shrinkage must lie between 0 (plain accumulation) and 1, got 1.5"),
        ("run bandit --max-removed -1", "max_removed must be None (no clamp) or a finite number >= 0, got -1.0"),
        ("run bandit --projection exct", "unknown projection method 'exct'; did you mean 'exact'?"),
        ("run bandit --initial-states 63", "initial_states must be a multiple of steps_per_batch (2), got 63"),
        ("ladder --tiers bandit,gmy", "unknown tier 'gmy'"),
        ("run bandit --seeds 3", "--seeds is for --ablate"),
        ("run bandit --ablate --evaluate test", "--evaluate, --tracker and --strict are for a single run"),
        ("ladder --seeds 0", "seeds must be at least 1, got 0"),
        ("ladder --jobs 0", "jobs must be at least 1, got 0"),
        ("report nowhere", "nowhere is not a directory"),
    ],
)
def test_a_wrong_use_is_one_line_and_changes_nothing(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"proma-bench: {message}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not list(tmp_path.iterdir())


def test_a_directory_of_another_run_is_one_line(capsys, tmp_path):
    run_in(tmp_path, tiny(steps=1))
    assert main(["run", "bandit", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "different run" in error
    assert error.count("\n") == 1


def test_a_damaged_run_is_one_line(capsys, tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert main(["report", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "left out: cannot read" in error
    assert error.count("\n") == 1


def test_a_run_shows_progress_and_where_it_is(capsys, tmp_path):
    options = "--steps 4 --initial-states 4 --group-size 4 --method reinforce".split()
    assert main(["run", "bandit", *options, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "step 4 of 4: score" in printed
    assert "entropy" in printed
    assert "local KL" in printed
    assert printed.rstrip().endswith(f"run: {tmp_path / 'run'}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--help", ["run", "ladder", "report", "verify", "tutorials"]),
        ("run --help", ["TIER", "bandit"]),
        ("run bandit --help", ["--method", "--max-removed", "--uncovered", "--resume", "the paper"]),
        ("ladder --help", ["--budget", "--jobs", "default: 10"]),
        ("report --help", ["DIR"]),
        ("verify --help", ["FILE.py:NAME", "--inexact"]),
        ("tutorials --help", ["--out", "proma-tutorials"]),
    ],
)
def test_help_is_there(arguments, expected, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in expected)


def test_help_and_the_package_start_without_what_is_slow():
    program = (
        "import sys, contextlib, proma_bench, proma_bench.cli\n"
        "with contextlib.suppress(SystemExit): proma_bench.cli.main(['run', 'bandit', '--help'])\n"
        "slow = {'torch', 'sklearn', 'scipy', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {slow}' if slow else 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
