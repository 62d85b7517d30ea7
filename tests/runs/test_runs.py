"""A run's directory survives: kills, cuts, a full disk, a second process, and being mistaken for another run's."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from small_runs import heed_signals, tiny, without_timings

from proma_bench.errors import RunError, UsageError
from proma_bench.experiments.run import run_in
from proma_bench.experiments.training import train
from proma_bench.learning.methods import METHODS
from proma_bench.report.reading import read_runs
from proma_bench.runs import checkpoints, criteria
from proma_bench.runs import directory as runs
from proma_bench.runs.directory import claim, read_metrics, read_run


class Crash(Exception):
    pass


def crash_at(step):
    def on_step(metrics):
        if metrics["step"] == step:
            raise Crash

    return on_step


def interrupted(path, config, step):
    with pytest.raises(Crash):
        run_in(path, config, on_step=crash_at(step))


def files(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def expected():
    return without_timings(train(tiny()))


def test_a_finished_run_holds_what_training_in_memory_gives(tmp_path, expected):
    run = run_in(tmp_path / "a" / "run", tiny())
    assert run.finished
    assert without_timings(run.metrics) == expected
    assert run.config["method"] == "proma"
    assert run.config["versions"]["torch"]
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["last"] == run.metrics[-1]
    assert summary["mean"]["reward"] == pytest.approx(sum(step["reward"] for step in run.metrics) / 6)


def test_the_same_seed_writes_the_same_bytes_apart_from_timings(tmp_path, monkeypatch):
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)
    first, second = run_in(tmp_path / "a", tiny()), run_in(tmp_path / "b", tiny())
    assert (first.path / "metrics.jsonl").read_bytes() == (second.path / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", range(1, 7))
def test_a_run_that_stopped_anywhere_resumes_to_the_same_metrics(tmp_path, method, step):
    config = tiny(method=method)
    interrupted(tmp_path, config, step)
    assert len(read_run(tmp_path).metrics) == step
    resumed = run_in(tmp_path, config, resume=True, on_note=pytest.fail)
    assert without_timings(resumed.metrics) == without_timings(train(config))


def test_a_killed_process_loses_nothing(tmp_path):
    """SIGKILL at whatever step the run has got to; then again, until one attempt gets through."""
    config = tiny(steps=20, checkpoint_every=4)
    options = (
        "--steps 20 --initial-states 8 --group-size 4 --microbatch-size 4 --hidden 16 --checkpoint-every 4".split()
    )
    command = [sys.executable, "-W", "error", "-m", "proma_bench", "run", "bandit", *options, "--resume"]
    for target in (3, 11):
        process = subprocess.Popen([*command, "--out", tmp_path], stdout=subprocess.DEVNULL)
        while process.poll() is None and len(read_metrics(tmp_path / "metrics.jsonl")) < target:
            time.sleep(0.001)
        process.kill()
        process.wait()
        if (tmp_path / ".lock").exists():
            assert read_run(tmp_path).metrics[0]["step"] == 1
    assert without_timings(run_in(tmp_path, config, resume=True).metrics) == without_timings(train(config))


def test_ctrl_c_leaves_a_run_that_can_be_read(tmp_path):
    command = [sys.executable, "-m", "proma_bench", "run", "bandit", "--steps", "100000", "--out", tmp_path]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals
    )
    while process.poll() is None and not read_metrics(tmp_path / "metrics.jsonl"):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.count("\n") == 1
    assert "interrupted" in errors
    run = read_run(tmp_path)
    assert run.metrics
    assert not run.finished


def cut(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def test_a_cut_last_line_of_metrics_is_dropped_and_trained_again(tmp_path, expected):
    path = run_in(tmp_path, tiny()).path / "metrics.jsonl"
    cut(path, share=0.98)
    assert len(read_metrics(path)) == 5
    assert not read_run(tmp_path).finished
    notes = []
    assert without_timings(run_in(tmp_path, tiny(), resume=True, on_note=notes.append).metrics) == expected
    assert "ahead of the recorded metrics (step 5)" in notes[0]


@pytest.mark.parametrize("name", ["policy.safetensors", "training.safetensors", "state.json"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_checkpoint_cut_short_falls_back_to_the_one_before(tmp_path, expected, name, share):
    interrupted(tmp_path, tiny(), 5)
    assert [path.name for path in sorted((tmp_path / "checkpoint").iterdir())] == ["step-00000002", "step-00000004"]
    cut(tmp_path / "checkpoint" / "step-00000004" / name, share)
    notes = []
    assert without_timings(run_in(tmp_path, tiny(), resume=True, on_note=notes.append).metrics) == expected
    assert len(notes) == 1
    assert "step-00000004 is damaged" in notes[0]


def test_without_any_readable_checkpoint_the_run_starts_over(tmp_path, expected):
    interrupted(tmp_path, tiny(), 5)
    for path in (tmp_path / "checkpoint").rglob("*.safetensors"):
        path.unlink()
    notes = []
    assert without_timings(run_in(tmp_path, tiny(), resume=True, on_note=notes.append).metrics) == expected
    assert len(notes) == 2


def test_a_checkpoint_that_was_being_written_is_ignored(tmp_path, expected):
    interrupted(tmp_path, tiny(), 5)
    (tmp_path / "checkpoint" / "unfinished").mkdir()
    (tmp_path / "checkpoint" / "unfinished" / "policy.safetensors").write_bytes(b"half")
    assert without_timings(run_in(tmp_path, tiny(), resume=True, on_note=pytest.fail).metrics) == expected


def test_nothing_in_a_checkpoint_is_pickled(tmp_path):
    run_in(tmp_path, tiny())
    names = {path.name for path in (tmp_path / "checkpoint").rglob("*") if path.is_file()}
    assert names == {"policy.safetensors", "training.safetensors", "state.json"}


def no_space(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("owner", "name"), [(runs.MetricsFile, "append"), (checkpoints, "save_file")])
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path, monkeypatch, expected, owner, name):
    interrupted(tmp_path, tiny(), 3)
    with monkeypatch.context() as full:
        full.setattr(owner, name, no_space)
        with pytest.raises(RunError, match=r"No space left on device.*--resume"):
            run_in(tmp_path, tiny(), resume=True)
    assert without_timings(run_in(tmp_path, tiny(), resume=True, on_note=pytest.fail).metrics) == expected


def test_a_real_write_limit_is_one_line_too(tmp_path):
    """The limit on file sizes acts where a full disk would: in the middle of a write."""
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
        "from proma_bench.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    options = ["run", "bandit", "--steps", "60", "--initial-states", "8", "--out", str(tmp_path)]
    result = subprocess.run([sys.executable, "-c", program, *options], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "File too large" in result.stderr
    assert read_run(tmp_path).metrics
    assert not list((tmp_path / "checkpoint").iterdir())


def test_one_process_at_a_time(tmp_path):
    with claim(tmp_path, tiny(), resume=False), pytest.raises(UsageError, match="in use by another process"):
        run_in(tmp_path, tiny(), resume=True)
    assert run_in(tmp_path, tiny(), resume=True).finished


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(RunError, match=f"cannot lock files .{os.strerror(number)}.*choose an --out"):
        run_in(tmp_path / "run", tiny())
    assert not (tmp_path / "run" / "config.json").exists()


def test_what_a_dead_process_has_left_does_not_matter(tmp_path, expected):
    interrupted(tmp_path, tiny(), 5)
    (tmp_path / ".lock").write_text("12345\n")
    (tmp_path / "summary.unfinished").write_text("{")
    (tmp_path / "config.unfinished").write_text("{")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "rew')
    assert without_timings(run_in(tmp_path, tiny(), resume=True, on_note=pytest.fail).metrics) == expected


def test_a_lock_that_is_a_link_touches_nothing_else(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="is a link"):
        run_in(tmp_path / "run", tiny())
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("change", [{"method": "grpo"}, {"seed": 1}, {"learning_rate": 0.1}, {"hidden": 32}])
@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_of_a_different_run_is_left_alone(tmp_path, change, resume):
    interrupted(tmp_path, tiny(), 3)
    before = files(tmp_path)
    (name,) = change
    with pytest.raises(UsageError, match=f"different run.*{name}.*choose another --out"):
        run_in(tmp_path, tiny(**change), resume=resume)
    assert files(tmp_path) == before


def test_the_same_run_is_not_started_over_by_mistake(tmp_path):
    interrupted(tmp_path, tiny(), 3)
    before = files(tmp_path)
    with pytest.raises(UsageError, match=r"this run already \(3 of 6 steps\); --resume continues it"):
        run_in(tmp_path, tiny())
    assert files(tmp_path) == before


def test_a_finished_run_is_not_run_again(tmp_path):
    run_in(tmp_path, tiny())
    before = files(tmp_path)
    assert run_in(tmp_path, tiny(), resume=True, on_step=pytest.fail).finished
    assert files(tmp_path) == before


def test_a_file_or_a_ladder_is_no_place_for_a_run(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        run_in(tmp_path / "file", tiny())
    (tmp_path / "ladder.json").write_text("{}")
    with pytest.raises(UsageError, match="holds a whole ladder"):
        run_in(tmp_path, tiny())


def test_runs_are_found_wherever_they_lie(tmp_path):
    run_in(tmp_path / "x", tiny(steps=1))
    run_in(tmp_path / "y" / "z", tiny(steps=2, method="grpo"))
    assert [run.config["method"] for run in read_runs(tmp_path).runs] == ["proma", "grpo"]
    with pytest.raises(UsageError, match="no runs"):
        read_runs(tmp_path / "y" / "z" / "checkpoint")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "cannot read .*config.json"),
        ("config.json", "[]", "not a JSON object"),
        (
            "config.json",
            '{"tier": "bandit", "title": "bandit", "format": 1}',
            "lacks learning_rate, method, seed, steps",
        ),
        ("metrics.jsonl", '{"step": 1}\nnonsense\n{"step": 3}\n', "line 2: not JSON"),
        ("config.json", '{"versions": {"torch": -1e400}}', "-1e400 is too large a number"),
        ("metrics.jsonl", '{"step": 1}\n{"step": 3}\n', "line 2: not the metrics of step 2"),
        ("metrics.jsonl", '{"step": 1, "score": 1' + "0" * 400 + ".0}\n", "line 1: 10{19} is too large a number"),
    ],
)
def test_a_damaged_directory_says_which_file(tmp_path, name, content, message):
    run_in(tmp_path, tiny(steps=1))
    (tmp_path / name).write_text(content)
    with pytest.raises(RunError, match=message):
        read_run(tmp_path)


@pytest.mark.parametrize("name", ["margin", "learning_rate"])
def test_criteria_beyond_any_float_are_none(name):
    stored = criteria.to_json(criteria.Criteria())
    assert criteria.from_json({**stored, name: 1.0}) == criteria.Criteria(**{name: 1.0})
    with pytest.raises(UsageError, match="numbers from 0 on"):
        criteria.from_json({**stored, name: 10**400})
