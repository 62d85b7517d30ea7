"""What docs/rules.md shows is run here."""

import re
from pathlib import Path

import torch

from docs import rules as page
from proma_bench.cli import commands as cli
from proma_bench.learning.methods import OTHER_METHODS
from proma_bench.learning.rules import users_rule
from proma_bench.projection.rules import UPDATE_RULES
from proma_bench.testing import check_rule

TEXT = page.PAGE.read_text()
(PROGRAM,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
(COMMANDS,) = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_five_lines_are_a_rule():
    names = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(PROGRAM, "rules.md", "exec"), names)
    assert {record.microbatch for record in names["changed"]} == set(range(8))
    assert all(parameter.grad.isfinite().all() for parameter in names["policy"].parameters())
    assert all(record.removed_norm > 0 for record in names["changed"])


def test_they_are_a_method_as_well(tmp_path):
    (tmp_path / "mine.py").write_text(PROGRAM)
    check_rule(users_rule(f"{tmp_path}/mine.py:normalised").rule, examples=20)


def test_commands_exist_with_these_options(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for line in COMMANDS.splitlines():
        assert callable(cli._parse(line.split()[1:]))


def test_every_built_in_rule_is_explained():
    for name in UPDATE_RULES:
        assert f"| `{name}` |" in TEXT and OTHER_METHODS[name].rule == name


def test_the_table_of_promises_is_what_the_rules_keep():
    assert page.main(["--check"]) == 0, "python -m docs.rules writes it anew"


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert target.startswith("https://") or (Path(page.PAGE).parent / target.partition("#")[0]).exists(), target
