"""What the command line says to those who use it wrongly, and how fast it starts."""

import os
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
        ("run bandit --out=", "an argument is empty: '--out='"),
        ("run bandit --hidden 999999999999", "hidden must be below 2147483648, got 999999999999"),
        ("run bandit --microbatch-size 99999999999999999999", "microbatch_size must be below 2147483648"),
        ("new-method __main__", "'__main__' is the name of a module"),
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


def test_an_empty_directory_name_is_not_the_current_directory(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "bandit", "--steps", "1", "--out", ""]) == 2
    assert capsys.readouterr().err == "proma-bench: an argument is empty: ''; is a variable of the shell not set?\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_more_memory_than_there_is_is_one_line(error, capsys, tmp_path, monkeypatch):
    def fail(config):
        raise error

    monkeypatch.setattr("proma_bench.experiments.run.Training", fail)
    assert main(["run", "bandit", "--out", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("proma-bench: out of memory:")


def test_a_current_directory_that_is_gone_is_one_line(tmp_path):
    (tmp_path / "gone").mkdir()
    program = [sys.executable, "-m", "proma_bench", "report", "x"]
    command = f"import os; os.rmdir(os.getcwd()); os.execv({sys.executable!r}, {program})"
    found = subprocess.run([sys.executable, "-c", command], cwd=tmp_path / "gone", capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr == "proma-bench: the current directory has been removed; change to one that is there\n"


def test_help_comes_to_an_end_on_any_terminal():
    found = subprocess.run(
        [sys.executable, "-m", "proma_bench", "run", "bandit", "--help"],
        env={**os.environ, "COLUMNS": "1"},
        capture_output=True,
        timeout=60,
    )
    assert found.returncode == 0 and b"--learning-rate" in found.stdout


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
