"""``proma-bench new-method``: what it writes works as it is, and what is there already stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proma_bench.cli.commands import run


def test_the_rule_and_its_tests_work_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new-method", "calm", "--out", str(tmp_path)]) == 0
    assert "proma-bench verify calm:calm" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calm.py", "test_calm.py"]
    tested = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_calm.py"]
    done = subprocess.run(tested, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "7 passed" in done.stdout, done.stdout
    method, out = f"{tmp_path / 'calm.py'}:calm", tmp_path / "run"
    assert run(["run", "bandit", "--method", method, "--steps", "1", "--out", str(out)]) == 0
    assert (out / "rule.py").read_text() == (tmp_path / "calm.py").read_text()


@pytest.mark.parametrize("there", ["calm.py", "test_calm.py"])
def test_nothing_is_overwritten(there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / there).write_text("mine")
    assert run(["new-method", "calm", "--out", str(tmp_path)]) == 2
    assert f"{there} is there already" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "mine")]


@pytest.mark.parametrize("name", ["json", "torch", "proma_bench"])
def test_a_name_must_not_hide_a_module(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new-method", name, "--out", str(tmp_path)]) == 2
    assert "is the name of a module" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_name_must_not_be_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new-method", "", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "an argument is empty" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["my rule", "3d", "../calm", "class", "größe"])
def test_a_name_must_be_one_of_a_function(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new-method", name, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "cannot be the name of a function" in error
    assert not list(tmp_path.iterdir())
