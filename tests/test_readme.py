"""What the README and the guide show is run here."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from proma_bench.cli import commands as cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_loop_moves_the_weights():
    names = {}
    exec(
        blocks("python")[0].replace(
            "optimizer.step()", "before = [p.clone() for p in policy.parameters()]\noptimizer.step()"
        ),
        names,
    )
    assert all(not torch.equal(p, old) for p, old in zip(names["policy"].parameters(), names["before"], strict=True))
    assert all(p.grad is None for p in names["policy"].parameters())


@pytest.mark.parametrize("line", [line for block in blocks("bash") for line in block.splitlines()])
def test_commands_exist_with_these_options(line):
    program, *arguments = line.split()
    assert program == "proma-bench"
    assert callable(cli._parse(arguments))


def documented_commands():
    """Commands that stand on lines of their own in the documentation and in tox.ini, with where they stand."""
    for path in sorted([*ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md", ROOT / "tox.ini"]):
        text = re.sub(r"\\\n\s*", "", path.read_text())
        for line in re.findall(r"^    (proma-bench .*)$", text, flags=re.MULTILINE):
            yield pytest.param(line, id=f"{path.name}: {line[:60]}")


@pytest.mark.parametrize("line", [*documented_commands()])
def test_documented_commands_exist_with_these_options(line):
    line = re.sub(r"\{env_tmp_dir\}|\{posargs\}", "", line)
    line = re.sub(r"\$'([^']*)'", lambda found: shlex.quote(found[1].replace("\\n", "\n")), line)  # a shell's $'...\n'
    assert callable(cli._parse(shlex.split(line, comments=True)[1:]))


def test_the_two_commands_are_complete():
    lines = [line.strip() for line in README.splitlines()]
    assert 'python -m pip install -c constraints.txt ".[ladder]" && proma-bench ladder' in lines
    assert "python -m pip install tox && tox" in lines


def test_no_page_has_control_characters():
    for path in [
        *ROOT.glob("*.md"),
        *(path for folder in ("docs", "benchmarks", "tutorials") for path in ROOT.glob(f"{folder}/**/*.md")),
    ]:
        assert not re.search(r"[^\t\n -~\u00a0-\U0010ffff]", path.read_text()), f"{path}: \\b of an escaped \\boxed?"


def test_links_and_the_picture_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target.partition("#")[0]).exists(), target


def test_the_layout_names_what_exists():
    layout = README.split("## Where things are")[1]
    lines = re.findall(r"^    ( *)((?:\w+/(?:, )?)+)", layout, flags=re.MULTILINE)
    assert 10 <= len(lines) <= 15
    for indent, names in lines:
        for name in names.rstrip().split(", "):
            assert (ROOT / ("proma_bench" if indent else "") / name).is_dir(), name
