"""Where output goes: user text is text, an output that nobody reads costs no file, and each error names its file."""

import ast
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_runs import made_up, store
from rich.console import Console

import proma_bench
from proma_bench.cli import main
from proma_bench.console import make_console, say, table, text
from proma_bench.errors import UsageError
from proma_bench.report.build import report

HOSTILE = [
    "[/x]",
    "[red]",
    "[link=a]",
    ":bug:",
    "\\[x]",
    "a\\",
    "\x1b[31m",
    "a\nb",
    "é\udcff",
    "{state}",
    "%s",
]
RUN = "run bandit --steps 2 --initial-states 4 --group-size 2 --microbatch-size 2 --hidden 4".split()
PACKAGE = Path(proma_bench.__file__).parent


def shown(act, **options):
    console = Console(file=io.StringIO(), width=200, **options)
    act(console)
    return console.file.getvalue()


def escaped(words):
    """The words as one line."""
    return words.replace("\x1b", "\\x1b").replace("\n", "\\n").replace("\udcff", "\\udcff")


# --------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("words", HOSTILE)
@pytest.mark.parametrize("terminal", [False, True])
def test_whatever_is_said_is_text(words, terminal):
    assert (
        shown(lambda console: say(console, words), force_terminal=terminal, color_system=None) == f"{escaped(words)}\n"
    )


@pytest.mark.parametrize("words", [words for words in HOSTILE if "\n" not in words])
def test_whatever_is_in_a_table_is_text(words):
    printed = shown(lambda console: console.print(table(words, [words, "b"], [[words, text((words, "red"))]])))
    assert printed.count(escaped(words)) == 4


@pytest.mark.parametrize("words", HOSTILE)
def test_an_error_is_one_line_whatever_it_names(words, monkeypatch, capsys):
    def complain(arguments):
        raise UsageError(f"unknown: {words}")

    monkeypatch.setattr("proma_bench.cli.commands._parse", complain)
    assert main(["report", "x"]) == 2
    assert capsys.readouterr().err == f"proma-bench: unknown: {escaped(words)}\n"


def test_a_run_and_its_report_in_a_directory_with_a_hostile_name(tmp_path, capsys):
    for words in HOSTILE:
        run = tmp_path / words / words
        assert main([*RUN, "--out", str(run)]) == 0
        printed = capsys.readouterr()
        assert printed.out.endswith(f"run: {escaped(str(run))}\n")
        assert main([*RUN, "--out", str(run)]) == 2
        assert escaped(str(run)) in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_report_shows_names_from_runs_as_text_on_any_console(tmp_path):
    words = "[/x][red]:bug:"
    store(made_up(tmp_path / words, method=words, tier=words, **{words: 1.0}))
    printed = shown(lambda console: report(tmp_path, console))
    assert f"{words}, 4 steps" in printed and f"unknown metric {words!r}" in printed


def test_all_printing_in_the_package_is_through_one_module():
    """`print` goes to standard error only, of what `printable` has passed, or of fixed words."""
    for path in PACKAGE.rglob("*.py"):
        name, source = path.relative_to(PACKAGE).as_posix(), path.read_text()
        if name == "console.py" or name.startswith("tutorials/"):
            continue
        assert "rich.markup" not in source, name
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Call):
                continue
            called, first = ast.unparse(node.func), ast.unparse(node.args[0]) if node.args else ""
            if called.endswith("console.print"):
                assert first.endswith(("table", "table(tiers)")) or "_table(" in first, f"{name}: {ast.unparse(node)}"
            assert not called.endswith(("add_row", "add_column", "from_markup")), f"{name}: {ast.unparse(node)}"
            assert called not in ("Console", "rich.print", "RichTable", "Panel"), f"{name}: {ast.unparse(node)}"
            if called == "TextColumn":
                assert "markup=False" in ast.unparse(node), name
            if called == "print" and name not in ("cli/signals.py", "tasks/reasoning.py"):  # of fixed words
                assert "file=sys.stderr" in ast.unparse(node), f"{name}: {ast.unparse(node)}"


def test_the_console_of_the_command_line_knows_no_markup():
    console = make_console()
    with console.capture() as capture:
        console.print("[/x] :bug: [red]a")
    assert capture.get() == "[/x] :bug: [red]a\n"


# ------------------------------------------------------------------------------------------- where it goes


def proma_bench_command(*arguments, **options):
    command = [sys.executable, "-W", "error", "-m", "proma_bench", *map(str, arguments)]
    return subprocess.run(command, text=True, stderr=subprocess.PIPE, timeout=300, **options)


def test_a_report_that_nobody_reads_is_written_all_the_same(tmp_path):
    store(made_up(tmp_path / "run"))
    reading, writing = os.pipe()
    os.close(reading)
    result = proma_bench_command("report", tmp_path, stdout=writing)
    os.close(writing)
    assert result.returncode == 1
    assert result.stderr == "proma-bench: standard output: Broken pipe; printed lines are lost, files are not\n"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "plots", "claims.json", "report.html"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_output_is_one_line():
    with open("/dev/full", "w") as full:
        result = proma_bench_command("--help", stdout=full)
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1 and "standard output: No space left on device" in result.stderr
        command = [sys.executable, "-m", "proma_bench", "report", "nowhere"]
        assert subprocess.run(command, stdout=full, stderr=full).returncode == 2


def test_a_closed_output_is_one_line():
    result = proma_bench_command("--help", preexec_fn=lambda: os.close(1))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "standard output: Bad file descriptor" in result.stderr


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_an_output_without_unicode_gets_escapes(tmp_path, environment):
    name = os.fsdecode("é‖".encode())
    arguments = [*RUN, "--out", tmp_path / name]
    result = proma_bench_command(*arguments, stdout=subprocess.PIPE, env={**os.environ, **environment})
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1].startswith(f"run: {tmp_path}/\\")
    assert (tmp_path / name / "summary.json").exists()


# ------------------------------------------------------------------------------------- where it cannot go


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("report.html", 3),
        ("plots/bandit.png", 1),
        ("claims.json", 2),
    ],
)
def test_a_disk_that_fills_up_is_named_with_the_right_file(tmp_path, capsys, monkeypatch, name, call):
    store(made_up(tmp_path / "run"))
    calls, fsync = [], os.fsync

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert main(["report", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"proma-bench: {tmp_path / name}: No space left on device\n"
    assert not (tmp_path / name).exists()
    assert not [path for path in tmp_path.rglob("*") if "unfinished" in path.name]


@pytest.mark.parametrize("name", ["report.html", "claims.json", "plots"])
def test_a_folder_or_a_file_in_the_way_of_a_report_is_named(tmp_path, capsys, name):
    store(made_up(tmp_path / "run"))
    (tmp_path / name).write_text("mine") if name == "plots" else (tmp_path / name).mkdir()
    assert main(["report", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"proma-bench: {tmp_path / name}: ")


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoint", "summary.json", ".lock"])
def test_what_is_in_the_way_of_a_run_is_named(tmp_path, capsys, name):
    (tmp_path / "run").mkdir()
    place = tmp_path / "run" / name
    place.write_text("mine") if name == "checkpoint" else place.mkdir()
    assert main([*RUN, "--out", str(tmp_path / "run")]) == (1 if name in ("config.json", ".lock") else 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(tmp_path / "run") in error and name in error


@pytest.mark.parametrize("target", ["nowhere", "loop"])
def test_a_link_that_leads_nowhere_is_no_directory(tmp_path, capsys, target):
    (tmp_path / "loop").symlink_to(target)
    assert main([*RUN, "--out", str(tmp_path / "loop")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"proma-bench: {tmp_path / 'loop'}: there is something else of this name, and no directory"


def test_a_directory_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main([*RUN, "--out", str(tmp_path / "file" / "run")]) == 1
    assert capsys.readouterr().err == f"proma-bench: {tmp_path / 'file' / 'run'}: Not a directory\n"
