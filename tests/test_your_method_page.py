"""What docs/your_method.md shows is what the commands take and print."""

import re
from pathlib import Path

import pytest
import torch

from proma_bench.cli import commands as cli

PAGE = (Path(__file__).parents[1] / "docs/your_method.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]
(RULE,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def written(tmp_path, monkeypatch, capsys):
    """What `new-method` has printed, in the directory where its files are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.run(COMMANDS[0].split()[1:]) == 0
    return capsys.readouterr().out


def shown(printed):
    """The lines without what a terminal adds."""
    return [line.rstrip() for line in printed.splitlines() if line.strip()]


def test_commands_exist_with_these_options(written):
    for line in COMMANDS:
        if line.startswith("proma-bench"):
            assert callable(cli._parse(line.split()[1:]))


def test_the_rule_on_the_page_is_the_one_that_is_written(written):
    ours, theirs = {}, {}
    exec(RULE, ours)
    exec(Path("averaged.py").read_text(), theirs)
    generator = torch.Generator().manual_seed(0)
    seq_grads, overlap, advantages = (
        torch.randn(2, 4, *more, dtype=torch.float64, generator=generator) for more in ((9,), (), ())
    )
    seq_grads[0, 1] = 0.0
    problem = seq_grads @ seq_grads.mT, overlap, advantages
    assert torch.equal(ours["averaged"](*problem, strength=0.5), theirs["averaged"](*problem, strength=0.5))


def test_the_page_has_what_is_printed(written, capsys):
    for line in shown(written):
        assert line in PAGE
    assert cli.run(["verify", "averaged:averaged"]) == 0
    for line in shown(capsys.readouterr().out):
        assert line in PAGE
