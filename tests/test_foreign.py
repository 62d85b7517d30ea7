"""Code of somebody else may exit, and may fail to say what went wrong: one line all the same."""

import os
import subprocess
import sys

import gymnasium
import pytest

from proma_bench.cli import main
from proma_bench.foreign import described, shown

RULES = """
import sys
import torch

class Mute(Exception):
    def __str__(self): raise ValueError
    __repr__ = __str__

def raises(gram, overlap, advantages): raise Mute
def returns(gram, overlap, advantages): return Mute()
async def waits(gram, overlap, advantages): return advantages
def sparse(gram, overlap, advantages): return advantages.to_sparse()

class Exits:
    def __init__(self): sys.exit(3)

class Endless:
    memory_size = "endless"
    def __call__(self, gram, overlap, advantages): return advantages
"""
MESSAGES = {
    "raises": "raised Mute: its text cannot be shown",
    "returns": "which must be a tensor: an object of Mute that cannot be shown",
    "waits": "which must be a tensor: <coroutine object waits",
    "sparse": "as torch.sparse_coo; it must be torch.float64 on cpu",
    "Exits": "SystemExit: 3",
    "Endless": "memory_size of an update rule must be a whole number of at least 0, got 'endless'",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_rule_that_cannot_be_used_is_one_line(name, tmp_path, capfd):
    (tmp_path / "rules.py").write_text(RULES)
    assert main(["run", "bandit", "--method", f"{tmp_path / 'rules.py'}:{name}", "--out", str(tmp_path / "run")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert MESSAGES[name] in line
    assert not (tmp_path / "run").exists()


class Exits(gymnasium.Env):
    """Its close ends the process, and its spaces cannot be looked at."""

    def close(self):
        sys.exit(7)

    @property
    def observation_space(self):
        raise ValueError("no space")


def test_an_environment_that_exits_or_hides_its_spaces_is_one_line(tmp_path, capfd):
    gymnasium.register("tests/Exits-v0", entry_point=Exits)
    assert main(["run", "gym", "--env", "tests/Exits-v0", "--out", str(tmp_path / "run")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "tests/Exits-v0 cannot be made: ValueError: no space" in line


def test_a_plug_in_that_exits_is_one_line(tmp_path):
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(0)\n")
    command = [sys.executable, "-m", "proma_bench", "report", str(tmp_path)]
    plugins = {"PROMA_BENCH_PLUGINS": str(tmp_path / "exits.py")}
    found = subprocess.run(command, env={**os.environ, **plugins}, capture_output=True, text=True)
    assert found.returncode == 2 and "SystemExit: 0" in found.stderr and len(found.stderr.splitlines()) == 1


def test_what_is_long_is_cut_and_lines_are_joined():
    assert shown("x" * 999, 9) == "'xxxxxxxx..."
    assert described(ValueError("two\nlines")) == "ValueError: two lines"
    assert described(ValueError()) == "ValueError"
    assert described(ValueError("y" * 10_000)) == f"ValueError: {'y' * 600}..."
