"""Runs that go on: with other versions, and beyond the number of steps that they were started with."""

import json

import pytest
from rich.console import Console
from small_runs import tiny, tiny_gym, without_timings

from proma_bench.cli import main
from proma_bench.errors import UsageError
from proma_bench.experiments.ablation import ablate
from proma_bench.experiments.run import run_in
from proma_bench.experiments.training import train
from proma_bench.report.judging import evaluate
from proma_bench.report.paired import comparable
from proma_bench.report.settings import versions as reported
from proma_bench.runs import versions
from proma_bench.runs.directory import read_json, read_run, write_json

RUN = (
    "run bandit --initial-states 8 --group-size 4 --microbatch-size 4 --hidden 16 --checkpoint-every 2 --steps".split()
)


def half_done(path, config):
    """A run as it is after two of its steps."""
    run_in(path, config)
    lines = (path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (path / "metrics.jsonl").write_bytes(b"".join(lines[:2]))
    (path / "summary.json").unlink()


def started_with(path, **changes):
    config = read_json(path / "config.json")
    write_json(path / "config.json", {**config, "versions": {**config["versions"], **changes}})


# ----------------------------------------------------------------------------------------------- versions


@pytest.mark.parametrize("package", ["torch", "python", "proma-bench"])
def test_another_version_is_noted_recorded_and_reported(tmp_path, package):
    half_done(tmp_path, tiny(steps=4))
    now = versions.installed()[package]
    started_with(tmp_path, **{package: "0.1"})
    notes = []
    run = run_in(tmp_path, tiny(steps=4), resume=True, on_note=notes.append)
    assert any(f"resumed with {package} {now} instead of 0.1: the results may differ" in line for line in notes)
    assert run.config["resumed"] == [{"step": 2, "versions": versions.installed()}]
    assert run.config["versions"][package] == "0.1"
    (tier,) = evaluate([run])
    assert any("1 of 1 runs were resumed with other versions" in note for note in tier.notes)
    assert reported([run])[package] == f"0.1, {now}"


def test_the_same_versions_leave_no_trace(tmp_path):
    half_done(tmp_path, tiny(steps=4))
    before = (tmp_path / "config.json").read_bytes()
    run = run_in(tmp_path, tiny(steps=4), resume=True, strict=True)
    assert (tmp_path / "config.json").read_bytes() == before
    (tier,) = evaluate([run])
    assert not any("resumed" in note for note in tier.notes)


def test_a_package_that_was_not_there_at_the_start_does_not_count(tmp_path):
    half_done(tmp_path, tiny(steps=4))
    config = read_json(tmp_path / "config.json")
    del config["versions"]["transformers"]
    write_json(tmp_path / "config.json", config)
    assert "resumed" not in run_in(tmp_path, tiny(steps=4), resume=True, strict=True).config


@pytest.mark.parametrize(
    "strange", [None, 3, [], [3], [{"versions": 3}], {"a": 1}, [{"step": 1, "versions": {"a": []}}]]
)
def test_strange_records_are_survived(tmp_path, strange):
    half_done(tmp_path, tiny(steps=4))
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {**config, "versions": strange, "resumed": strange, "extended": strange})
    run = run_in(tmp_path, tiny(steps=6), resume=True)
    assert run.finished
    (tier,) = evaluate([run])
    assert tier.notes and reported([run]) is not None


@pytest.mark.parametrize("name, default", [("sort_by_length", False), ("dual_clip", None), ("optimizer", "adam")])
def test_a_run_from_before_a_setting_goes_on_with_its_default(tmp_path, name, default):
    expected = without_timings(train(tiny(steps=4)))
    half_done(tmp_path, tiny(steps=4))
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored.pop(name) == default
    (tmp_path / "config.json").write_text(json.dumps(stored))
    notes = []
    assert without_timings(run_in(tmp_path, tiny(steps=4), resume=True, on_note=notes.append).metrics) == expected
    assert f"the run was started before there was {name}; its default is what was done then" in notes


@pytest.mark.parametrize("name", ["sort_by_length", "dual_clip", "optimizer", "sweeps"])
def test_a_run_from_before_a_setting_is_compared_with_later_ones(tmp_path, name):
    for seed in range(2):
        run_in(tmp_path / str(seed), tiny(steps=2, seed=seed))
    stored = json.loads((tmp_path / "0" / "config.json").read_text())
    del stored[name]
    (tmp_path / "0" / "config.json").write_text(json.dumps(stored))
    (tier,) = comparable([read_run(tmp_path / str(seed)) for seed in range(2)])
    assert len(tier.members) == 2 and tier.notes == []


def test_a_run_from_before_a_setting_does_not_go_on_with_another_value(tmp_path):
    half_done(tmp_path, tiny(steps=4))
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["sort_by_length"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UsageError, match="sort_by_length False, not True"):
        run_in(tmp_path, tiny(steps=4, sort_by_length=True), resume=True)


def test_strict_refuses_another_version_and_changes_nothing(tmp_path, capsys):
    assert main([*RUN, "4", "--out", str(tmp_path)]) == 0
    (tmp_path / "summary.json").unlink()
    started_with(tmp_path, torch="0.1")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main([*RUN, "4", "--out", str(tmp_path), "--resume", "--strict"]) == 2
    error = capsys.readouterr().err
    assert "was started with other versions (torch " in error and error.count("\n") == 1
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main([*RUN, "4", "--out", str(tmp_path), "--resume"]) == 0
    assert "resumed with torch" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------- more steps


@pytest.mark.parametrize("make", [tiny, tiny_gym])
@pytest.mark.parametrize(("first", "then"), [(2, 6), (3, 6), (1, 2), (3, 5), (5, 6)])
def test_a_finished_run_with_more_steps_is_the_longer_run(tmp_path, make, first, then):
    settings = {"warmup_steps": 5, "checkpoint_every": 2}
    run_in(tmp_path, make(steps=first, **settings))
    run = run_in(tmp_path, make(steps=then, **settings), resume=True)
    straight = train(make(steps=then, **settings))
    assert without_timings(run.metrics) == without_timings(straight)
    assert run.finished and run.config["steps"] == then and run.config["extended"] == [first]
    assert read_json(tmp_path / "summary.json")["last"] == run.metrics[-1]
    (tier,) = evaluate([run])
    assert any("1 of 1 runs went on beyond the number of steps" in note for note in tier.notes)


def test_the_former_last_step_alone_has_one_score_more(tmp_path):
    settings = {"validate_every": 4, "checkpoint_every": 2}
    run_in(tmp_path, tiny(steps=6, **settings))
    run = run_in(tmp_path, tiny(steps=8, **settings), resume=True)
    straight = train(tiny(steps=8, **settings))
    assert [step["score"] is None for step in straight] == [True] * 3 + [False] + [True] * 3 + [False]
    assert run.metrics[5].pop("score") is not None and run.metrics[5].pop("score_sampled") is not None
    del straight[5]["score"], straight[5]["score_sampled"]
    assert without_timings(run.metrics) == without_timings(straight)


def test_an_unfinished_run_may_be_lengthened_and_no_run_shortened(tmp_path):
    half_done(tmp_path, tiny(steps=4))
    run = run_in(tmp_path, tiny(steps=6), resume=True)
    assert without_timings(run.metrics) == without_timings(train(tiny(steps=6)))
    with pytest.raises(UsageError, match=r"different run \(steps 6, not 4\)"):
        run_in(tmp_path, tiny(steps=4), resume=True)
    with pytest.raises(UsageError, match=r"this run already \(6 of 8 steps\); --resume continues it"):
        run_in(tmp_path, tiny(steps=8))
    with pytest.raises(UsageError, match=r"different run.*seed"):
        run_in(tmp_path, tiny(steps=8, seed=1), resume=True)


def test_a_run_killed_while_it_was_lengthened_goes_on(tmp_path):
    class Killed(Exception):
        pass

    def kill(metrics):
        if metrics["step"] == 7:
            raise Killed

    run_in(tmp_path, tiny(steps=4))
    with pytest.raises(Killed):
        run_in(tmp_path, tiny(steps=8), resume=True, on_step=kill)
    assert not read_run(tmp_path).finished
    run = run_in(tmp_path, tiny(steps=8), resume=True)
    assert without_timings(run.metrics) == without_timings(train(tiny(steps=8)))
    assert run.config["extended"] == [4]


def test_recorded_metrics_of_no_sense_are_no_traceback(tmp_path, capsys):
    assert main([*RUN, "4", "--out", str(tmp_path)]) == 0
    lines = [{"step": step, "score": "high", "reward": 10**400, "entropy": None} for step in range(1, 5)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main([*RUN, "4", "--out", str(tmp_path), "--resume"]) == 0
    assert main([*RUN, "6", "--out", str(tmp_path), "--resume"]) == 0
    nested = '{"step": 1, "a": ' + "[" * 100_000 + "\n"
    (tmp_path / "metrics.jsonl").write_text(nested)
    capsys.readouterr()
    assert main([*RUN, "6", "--out", str(tmp_path), "--resume"]) == 1
    assert "line 1: nested too deeply" in capsys.readouterr().err


def test_a_number_beyond_any_float_in_the_settings_is_one_line(tmp_path, capsys):
    assert main([*RUN, "4", "--out", str(tmp_path)]) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    stored = json.dumps({**config, "criteria": "?"}).replace('"?"', "1e400")
    (tmp_path / "config.json").write_text(stored)
    capsys.readouterr()
    assert main([*RUN, "6", "--out", str(tmp_path), "--resume"]) == 1
    assert "1e400 is too large a number" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == stored


def test_an_ablation_with_more_steps_lengthens_its_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("proma_bench.experiments.ablation.variants", lambda: {"PROMA": {}})
    for steps in (2, 4):
        ablate(tiny(steps=steps), 1, tmp_path, 1, Console(width=200))
    assert len(read_run(tmp_path / "proma" / "seed-0").metrics) == 4
