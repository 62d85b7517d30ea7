"""Commands in directories that somebody else has filled: links are not followed, pipes and devices not waited for."""

import json
import os
import shutil
import signal
import types

import pytest
import torch
from made_up_runs import made_up, store
from rich.console import Console
from small_runs import tiny

from proma_bench import files
from proma_bench.cli import main
from proma_bench.cli.tutorials import copy_tutorials
from proma_bench.errors import RunError, UsageError
from proma_bench.experiments.ladder import climb, make_plan
from proma_bench.experiments.run import run_in
from proma_bench.experiments.trackers import Tracker
from proma_bench.language.models import byte_tokenizer, tiny_qwen3
from proma_bench.language.warm_start import warm_start
from proma_bench.runs.directory import read_run
from proma_bench.tasks.gsm8k import GSM8K
from proma_bench.tasks.reasoning import Task

RUN = "run bandit --steps 2 --initial-states 4 --group-size 2 --microbatch-size 2 --hidden 4".split()


@pytest.fixture(autouse=True)
def within_two_minutes():
    def stop(number, frame):
        raise TimeoutError("it hangs")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)


@pytest.fixture
def outside(tmp_path):
    """A directory with files, in which nothing may change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("file", "plots.png", "bandit.png"):
        (folder / name).write_text("precious")
    before = sorted(folder.rglob("*"))
    yield folder
    assert sorted(folder.rglob("*")) == before
    assert all(path.read_text() == "precious" for path in before)


def one_line(capsys):
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1, printed.err
    assert "Traceback" not in printed.out + printed.err
    return printed.err


# ------------------------------------------------------------------------------------------------ writing


def test_a_report_replaces_links_in_the_place_of_its_files(tmp_path, outside, capsys):
    root = tmp_path / "root"
    store(made_up(root / "run"))
    (root / "plots").mkdir()
    names = ("report.html", "claims.json", "report.unfinished", "claims.unfinished", "plots/bandit.png")
    for name in names:
        (root / name).symlink_to(outside / "file")
    assert main(["report", str(root)]) == 0
    assert (root / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert not any((root / name).is_symlink() for name in names if "unfinished" not in name)
    assert {path.name for path in root.iterdir() if path.name.startswith(".")} == set()


def test_a_report_refuses_a_folder_of_plots_that_is_a_link(tmp_path, outside, capsys):
    store(made_up(tmp_path / "root" / "run"))
    (tmp_path / "root" / "plots").symlink_to(outside)
    assert main(["report", str(tmp_path / "root")]) == 1
    assert "root/plots is a link" in one_line(capsys)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json", "config.unfinished"])
def test_a_run_writes_through_no_link_in_the_place_of_its_files(tmp_path, outside, name):
    run_in(tmp_path / "run", tiny(steps=1))
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).symlink_to(outside / "file")
    if name in ("config.json", "metrics.jsonl"):  # which are read
        with pytest.raises(RunError, match=f"{name}: it is a link"):
            run_in(tmp_path / "run", tiny(steps=2), resume=True)
    else:
        assert run_in(tmp_path / "run", tiny(steps=2), resume=True).finished


def test_metrics_that_are_another_name_of_a_file_are_not_written_through_it(tmp_path):
    run_in(tmp_path / "a", tiny(steps=2))
    before = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "metrics.jsonl").unlink()
    (tmp_path / "b" / "metrics.jsonl").hardlink_to(tmp_path / "a" / "metrics.jsonl")
    shutil.rmtree(tmp_path / "b" / "checkpoint")
    (tmp_path / "b" / "summary.json").unlink()
    run_in(tmp_path / "b", tiny(steps=2), resume=True)
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", [".lock", "checkpoint"])
def test_a_run_refuses_what_must_not_be_a_link(tmp_path, outside, name):
    run_in(tmp_path / "run", tiny(steps=1))
    files.remove(tmp_path / "run" / name)
    (tmp_path / "run" / name).symlink_to(outside / ("file" if name == ".lock" else "."))
    with pytest.raises(RunError, match=f"run/{name} is a link"):
        run_in(tmp_path / "run", tiny(steps=2), resume=True)


def test_links_inside_of_the_checkpoints_are_removed_and_not_followed(tmp_path, outside):
    run_in(tmp_path / "run", tiny(steps=1))
    folder = tmp_path / "run" / "checkpoint"
    for name in ("unfinished-0123456789abcdef", "step-00000001", "step-00000002"):
        if (folder / name).exists():
            files.remove(folder / name)
        (folder / name).symlink_to(outside)
    assert run_in(tmp_path / "run", tiny(steps=4), resume=True).finished
    assert {path.name for path in folder.iterdir()} == {"step-00000002", "step-00000004"}
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_a_directory_of_runs_may_be_a_link_itself(tmp_path, monkeypatch):
    (tmp_path / "big disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "big disk")
    monkeypatch.chdir(tmp_path)
    assert main(RUN) == 0
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    assert main([*RUN, "--out", "out"]) == 0
    assert main([*RUN, "--out", "out", "--resume"]) == 0
    assert main(["report", "out"]) == 0
    assert main(["report", "runs"]) == 0
    assert (tmp_path / "elsewhere" / "plots" / "bandit.png").exists()
    assert len(list((tmp_path / "big disk").rglob("metrics.jsonl"))) == 1


def test_a_ladder_and_an_ablation_refuse_links_below_their_directory(tmp_path, outside, capsys):
    (tmp_path / "bandit").symlink_to(outside)
    with pytest.raises(RunError, match="bandit is a link"):
        climb(make_plan(["bandit"], "smoke", 1), tmp_path, 1, Console())
    (tmp_path / "proma").symlink_to(outside)
    assert main([*RUN, "--ablate", "--seeds", "1", "--out", str(tmp_path)]) == 1
    assert "proma is a link" in one_line(capsys)


def test_the_tracker_and_the_tutorials_refuse_folders_that_are_links(tmp_path, outside, monkeypatch):
    (tmp_path / "tensorboard").symlink_to(outside)
    monkeypatch.setattr("importlib.import_module", lambda name: types.SimpleNamespace(SummaryWriter=str))
    with Tracker("tensorboard", tiny(), tmp_path) as tracker, pytest.raises(RunError, match="tensorboard is a link"):
        tracker.log({"step": 1})
    (tmp_path / "checks").symlink_to(outside)
    with pytest.raises(RunError, match="checks is a link"):
        copy_tutorials(tmp_path)


def test_a_warm_start_replaces_links(tmp_path, outside, monkeypatch):
    monkeypatch.setenv("PROMA_BENCH_CACHE", str(tmp_path / "cache"))
    task, tokenizer = Task("chain_sum", 16), byte_tokenizer()

    def start():
        model = tiny_qwen3(len(tokenizer), 64)
        warm_start(model, task, tokenizer, 1, 0.5)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    first = start()
    (stored,) = (tmp_path / "cache").glob("*.safetensors")
    for hostile in (lambda: stored.symlink_to(outside / "file"), lambda: os.mkfifo(stored), stored.mkdir):
        stored.unlink() if stored.is_file() else shutil.rmtree(stored)
        hostile()
        if stored.is_dir():
            with pytest.raises(OSError, match="safetensors"):
                start()
        else:
            assert torch.equal(start(), first)
    stored.with_suffix(".lock").unlink()
    stored.with_suffix(".lock").symlink_to(outside / "file")
    with pytest.raises(RunError, match="is a link"):
        start()


# ------------------------------------------------------------------------------------------------ reading


def a_fifo(path):
    os.mkfifo(path)


def a_folder(path):
    path.mkdir()


def a_loop(path):
    path.symlink_to(path)


def a_device(path):
    path.symlink_to("/dev/zero")


def a_huge_file(path):
    path.touch()
    os.truncate(path, 2**42)


NO_FILES = (a_fifo, a_folder, a_loop, a_device, a_huge_file)


def test_a_report_waits_for_nothing_that_is_no_file(tmp_path, capsys):
    store(made_up(tmp_path / "good"))
    a_fifo(tmp_path / "ladder.json")
    for seed, make in enumerate(NO_FILES):
        for name in ("config.json", "metrics.jsonl", "summary.json"):
            place = store(made_up(tmp_path / f"{make.__name__} {name}", seed=seed)).path / name
            place.unlink()
            make(place)
    assert main(["report", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "Traceback" not in out
    left_out = [line for line in out.splitlines() if line.startswith("left out")]
    for make in NO_FILES:
        for name in ("config.json", "metrics.jsonl"):
            assert sum(f"{make.__name__} {name}/{name}" in line for line in left_out) == 1
    assert len(left_out) == 2 * len(NO_FILES)


@pytest.mark.parametrize("make", NO_FILES)
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json", ".lock", "checkpoint"])
def test_a_resumed_run_waits_for_nothing_that_is_no_file(tmp_path, capsys, make, name):
    assert main([*RUN, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    place = tmp_path / "run" / name
    place.unlink() if place.is_file() else shutil.rmtree(place)
    make(place)
    (tmp_path / "run" / "summary.json").unlink() if name == "checkpoint" else None
    code = main([*RUN, "--out", str(tmp_path / "run"), "--resume"])
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert (code, err.count("\n")) in ((0, 0), (1, 1))
    assert code == 0 or f"run/{name}" in err


@pytest.mark.parametrize("make", NO_FILES)
@pytest.mark.parametrize("name", ["state.json", "policy.safetensors", "training.safetensors", ""])
def test_a_checkpoint_that_is_no_file_is_passed_over(tmp_path, make, name):
    run_in(tmp_path, tiny(steps=4))
    (tmp_path / "summary.json").unlink()
    expected = [step["reward"] for step in read_run(tmp_path).metrics]
    place = tmp_path / "checkpoint" / "step-00000004" / name
    place.unlink() if name else shutil.rmtree(place)
    make(place)
    notes = []
    run = run_in(tmp_path, tiny(steps=4), resume=True, on_note=notes.append)
    assert [step["reward"] for step in run.metrics] == expected
    assert len(notes) == 1 and "step-00000004" in notes[0]


@pytest.mark.parametrize("make", NO_FILES)
def test_data_that_is_no_file_is_one_line(tmp_path, make):
    make(tmp_path / "train.jsonl")
    with pytest.raises(UsageError, match=r"train\.jsonl"):
        GSM8K(tmp_path, 1)


def test_data_may_be_a_link_to_a_file(tmp_path):
    row = {"question": "1 + 1?", "answer": "2\n#### 2"}
    rows = "".join(json.dumps({**row, "question": f"{n} + 1?"}) + "\n" for n in range(3))
    (tmp_path / "blob").write_text(rows)
    (tmp_path / "train.jsonl").symlink_to(tmp_path / "blob")
    assert len(GSM8K(tmp_path, 1).training) == 2


def test_a_report_does_not_leave_its_directory(tmp_path, capsys):
    store(made_up(tmp_path / "elsewhere" / "run"))
    store(made_up(tmp_path / "root" / "run"))
    (tmp_path / "root" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "up").symlink_to(tmp_path)
    (tmp_path / "root" / "deep").mkdir()
    (tmp_path / "root" / "deep" / "config.json").symlink_to(tmp_path / "elsewhere" / "run" / "config.json")
    assert main(["report", str(tmp_path / "root")]) == 0
    out = capsys.readouterr().out
    assert "n 1" in out
    assert "deep/config.json: it is a link" in out
