"""A file of the user in the place of one of the program's is not overwritten: one line, and nothing is written."""

from __future__ import annotations

import pytest
from small_runs import tiny

from proma_bench.cli import main
from proma_bench.errors import UsageError
from proma_bench.experiments.run import run_in
from proma_bench.runs import checkpoints

WORDS = "precious"


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "summary.json", "test.json", "diverged.json", "checkpoint/thesis.txt"]
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_run_does_not_begin_among_files_that_it_would_write(tmp_path, name, resume):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(WORDS)
    with pytest.raises(UsageError, match=r"no config\.json that says of which run; choose another --out"):
        run_in(tmp_path, tiny(), resume=resume)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [name.rpartition("/")[2]]
    assert (tmp_path / name).read_text() == WORDS


def test_a_run_whose_settings_are_gone_is_not_continued_with_others(tmp_path):
    run_in(tmp_path, tiny())
    (tmp_path / "config.json").unlink()
    with pytest.raises(UsageError, match=r"no config\.json"):
        run_in(tmp_path, tiny(learning_rate=0.3), resume=True)


def test_only_folders_of_this_program_are_swept(tmp_path):
    run_in(tmp_path, tiny(steps=2))
    mine = tmp_path / "checkpoint" / "unfinished-thesis.txt"
    mine.write_text(WORDS)
    (tmp_path / "checkpoint" / f"unfinished-{'0' * 16}").mkdir()
    run_in(tmp_path, tiny(steps=4), resume=True)
    assert mine.read_text() == WORDS
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir() if path.is_dir()) == [
        path.name for _, path in sorted(checkpoints._newest_first(tmp_path / "checkpoint"))
    ]


@pytest.mark.parametrize("name", ["report.html", "claims.json", "plots/bandit.png"])
def test_a_report_replaces_its_own_files_alone(tmp_path, name, capsys):
    run_in(tmp_path / "run", tiny())
    assert main(["report", str(tmp_path)]) == 0
    assert main(["report", str(tmp_path)]) == 0
    (tmp_path / name).write_text(WORDS)
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert f"{tmp_path / name} was not made by this program and is not overwritten" in printed.err
    assert (tmp_path / name).read_text() == WORDS


def test_an_ablation_replaces_its_own_table_alone(tmp_path, capsys):
    (tmp_path / "ablation.md").write_text(WORDS)
    assert main(["run", "bandit", "--ablate", "--steps", "1", "--seeds", "1", "--out", str(tmp_path)]) == 1
    assert "ablation.md was not made by this program" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ablation.md"]
