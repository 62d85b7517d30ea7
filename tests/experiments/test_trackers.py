"""Trackers get the metrics as numbers, and are asked for by name."""

import importlib
import sys
import types

import pytest
from small_runs import tiny

from proma_bench.cli import main
from proma_bench.errors import UsageError
from proma_bench.experiments.trackers import Tracker, numbers

STEP = {"step": 1, "score": 0.5, "clamped": None, "removed_by_layer": {"a": 0.25, "b": None}}


class Recorder(types.SimpleNamespace):
    """Stands in for a tracker's module and notes every call."""

    def __init__(self):
        super().__init__(calls=[])
        self.SummaryWriter = lambda path: self

    def __getattr__(self, name):
        return lambda *arguments, **options: self.calls.append((name, arguments, options))


@pytest.fixture
def recorder(monkeypatch):
    module = Recorder()
    monkeypatch.setattr(importlib, "import_module", lambda name: module)
    return module


def test_numbers_are_what_can_be_drawn():
    assert numbers(STEP) == {"step": 1, "score": 0.5, "removed_by_layer/a": 0.25}


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_run_is_started_with_its_first_step_and_finished(recorder, tmp_path, name):
    config = tiny(seed=3)
    with Tracker(name, config, tmp_path) as tracker:
        assert not recorder.calls
        tracker.log(STEP)
        tracker.log({**STEP, "step": 2})
    (start, _, options), *logged, (finish, _, _) = recorder.calls
    assert (start, options["name"], options["config"]["seed"], finish) == ("init", config.name, 3, "finish")
    assert [(call, values["step"]) for call, _, values in logged] == [("log", 1), ("log", 2)]


def test_tensorboard_gets_a_scalar_a_metric(recorder, tmp_path):
    with Tracker("tensorboard", tiny(), tmp_path) as tracker:
        tracker.log(STEP)
    assert recorder.calls == [
        ("add_scalar", ("step", 1, 1), {}),
        ("add_scalar", ("score", 0.5, 1), {}),
        ("add_scalar", ("removed_by_layer/a", 0.25, 1), {}),
        ("close", (), {}),
    ]


def test_no_tracker_does_nothing(recorder, tmp_path):
    with Tracker("none", tiny(), tmp_path) as tracker:
        tracker.log(STEP)
    assert not recorder.calls
    with pytest.raises(UsageError, match="did you mean 'wandb'"):
        Tracker("wandbb", tiny(), tmp_path)


def test_a_missing_package_is_one_line_before_anything_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert main(["run", "bandit", "--tracker", "trackio", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error == "proma-bench: --tracker trackio needs the package trackio: python -m pip install trackio\n"
    assert not (tmp_path / "run").exists()
