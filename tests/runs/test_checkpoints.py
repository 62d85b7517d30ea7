"""Checkpoints that load but do not fit are passed over, and change nothing."""

import hashlib
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import tiny, without_timings

from proma_bench.experiments.run import run_in
from proma_bench.experiments.training import Training, train
from proma_bench.runs import checkpoints
from proma_bench.runs.directory import read_run

CONFIG = tiny(steps=4)


@pytest.fixture(scope="module")
def expected():
    return without_timings(train(CONFIG))


@pytest.fixture
def folder(tmp_path):
    """The checkpoints of steps 2 and 4 of a run that seems not to have ended."""
    run_in(tmp_path, CONFIG)
    (tmp_path / "summary.json").unlink()
    return tmp_path / "checkpoint"


def changed(name, change):
    """A change of a file's tensors, and of its SHA-256."""

    def damage(path):
        tensors = load_file(path / f"{name}.safetensors")
        change(tensors)
        save_file(tensors, path / f"{name}.safetensors")
        state = json.loads((path / "state.json").read_text())
        content = (path / f"{name}.safetensors").read_bytes()
        state["sha256"][f"{name}.safetensors"] = hashlib.sha256(content).hexdigest()
        (path / "state.json").write_text(json.dumps(state))

    return damage


def state(**changes):
    def damage(path):
        stored = json.loads((path / "state.json").read_text())
        (path / "state.json").write_text(json.dumps({**stored, **changes}))

    return damage


def flip_a_bit(path):
    content = bytearray((path / "policy.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "policy.safetensors").write_bytes(content)


def first(tensors, ending=""):
    return next(name for name in sorted(tensors) if name.endswith(ending))


def set_first(ending, value):
    def change(tensors):
        name = first(tensors, ending)
        tensors[name] = value(tensors[name]) if callable(value) else value

    return change


def drop(*parts):
    def change(tensors):
        for name in [name for name in tensors if all(part in name for part in parts)]:
            del tensors[name]

    return change


DAMAGES = {
    "a flipped bit": (flip_a_bit, "SHA-256"),
    "no digest of a file": (state(sha256={}), "SHA-256"),
    "digests of no sense": (state(sha256=3), "SHA-256"),
    "another step": (state(step=2), "not that of step 4"),
    "no step": (state(step=None), "not that of step 4"),
    "a list": (lambda path: (path / "state.json").write_text("[]"), "not that of step 4"),
    "nested": (lambda path: (path / "state.json").write_text("[" * 100_000), "nested too deeply"),
    "another shape": (changed("policy", set_first("weight", lambda t: t[:1].clone())), r"not torch\.float32 \["),
    "another type": (changed("policy", set_first("weight", lambda t: t.double())), r"torch\.float64"),
    "a missing weight": (changed("policy", drop("bias")), "is missing"),
    "an additional weight": (changed("policy", lambda t: t.update(extra=torch.zeros(1))), "has no 'extra'"),
    "a weight of NaN": (changed("policy", set_first("weight", lambda t: t * float("nan"))), "not finite"),
    "a weight without end": (changed("policy", set_first("bias", lambda t: t + float("inf"))), "not finite"),
    "moments of NaN": (changed("training", set_first("exp_avg", lambda t: t * float("nan"))), "not finite"),
    "moments of another shape": (changed("training", set_first("exp_avg", torch.zeros(1))), "exp_avg of parameter 0"),
    "a moment missing": (changed("training", drop("optimizer/0/", "avg_sq")), "parameter 0 is exp_avg, step"),
    "a parameter's moments missing": (changed("training", drop("optimizer/1/")), "parameter 1, which has been trained"),
    "all moments missing": (changed("training", drop("optimizer/")), "parameter 0, which has been trained"),
    "one moment more": (
        changed("training", lambda t: t.update({"optimizer/0/more": torch.zeros(1)})),
        "parameter 0 is exp_avg, exp_avg_sq, more",
    ),
    "one parameter more": (
        changed("training", lambda t: t.update({"optimizer/99/step": torch.zeros(1)})),
        "no parameter 99",
    ),
    "a strange tensor": (changed("training", lambda t: t.update({"a/../b": torch.zeros(1)})), "unknown tensor"),
    "the optimizer ahead": (changed("training", set_first("/step", torch.tensor(5.0))), "took 5 steps"),
    "a generator missing": (changed("training", drop("generator/order")), "its generators are actions"),
    "a generator more": (
        changed("training", lambda t: t.update({"generator/more": t["generator/order"].clone()})),
        "its generators are actions",
    ),
    "a generator's state cut": (changed("training", set_first("generator/order", lambda t: t[:9].clone())), "order"),
    "a generator's state a float": (changed("training", set_first("generator/order", torch.zeros(5056))), "order"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_checkpoint_that_does_not_fit_changes_nothing_and_is_passed_over(folder, expected, name):
    damage, reason = DAMAGES[name]
    damage(folder / "step-00000004")
    training = Training(CONFIG)
    before = snapshot(training)
    (folder / "step-00000002").rename(folder.parent / "aside")
    (line,) = checkpoints.restore(folder, training, last_step=4)
    assert training.step == 0
    assert_same(snapshot(training), before)
    (folder.parent / "aside").rename(folder / "step-00000002")

    notes = []
    run = run_in(folder.parent, CONFIG, resume=True, on_note=notes.append)
    assert without_timings(run.metrics) == expected
    assert notes == [line]
    assert "step-00000004 is damaged or not of this run (" in line
    assert re.search(reason, line)
    assert {path.name for path in folder.iterdir()} == {"step-00000002", "step-00000004"}
    assert checkpoints.restore(folder, Training(CONFIG), last_step=4) == []


def snapshot(training):
    return {
        **{f"policy/{name}": tensor.clone() for name, tensor in training.policy.state_dict().items()},
        **{name: generator.get_state() for name, generator in training.generators.items()},
        "moments": torch.tensor(len(training.optimizer.state_dict()["state"])),
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["step-latest", "step-4", "step-", "step-٠٠٠٠٠٠٠٤", "step-00000004.bak"])
def test_a_stray_directory_is_named_and_left_alone(folder, expected, name):
    (folder / name).mkdir()
    notes = []
    run = run_in(folder.parent, CONFIG, resume=True, on_note=notes.append)
    assert run.finished and without_timings(run.metrics) == expected
    assert notes == [f"{folder / name} is no checkpoint: it is passed over"]
    assert (folder / name).is_dir()


def test_a_checkpoint_without_digests_is_used_with_a_line(folder):
    for path in folder.iterdir():
        (path / "state.json").write_text(json.dumps({"step": int(path.name[5:])}) + "\n")
    training = Training(CONFIG)
    (line,) = checkpoints.restore(folder, training, last_step=4)
    assert "step-00000004 was written by an earlier version, without the SHA-256" in line
    assert training.step == 4


def test_a_parameter_that_was_never_trained_has_no_moments(tmp_path):
    training = Training(CONFIG)
    last = list(training.policy.parameters())[-1].requires_grad_(False)
    training.proma = None
    training.config = tiny(steps=4, method="reinforce")
    list(training.batch())
    assert last.grad is None
    checkpoints.save(tmp_path / "checkpoint", training)
    assert checkpoints.restore(tmp_path / "checkpoint", Training(CONFIG), last_step=2) == []


def test_the_digests_are_those_of_the_files(folder):
    for path in folder.iterdir():
        stored = json.loads((path / "state.json").read_text())
        steps = b"".join((folder.parent / "metrics.jsonl").read_bytes().splitlines(keepends=True)[: stored["step"]])
        contents = {name: (path / name).read_bytes() for name in checkpoints.TENSORS} | {"metrics.jsonl": steps}
        assert stored["sha256"] == {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    assert read_run(folder.parent).metrics[-1]["step"] == 4


def test_checkpoints_that_are_ahead_do_not_displace_those_that_a_run_writes(folder, expected):
    """They remain where metrics were cut, or where both were damaged and the run started over."""
    metrics = folder.parent / "metrics.jsonl"
    metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(keepends=True)[:1]))
    for step in (2, 4):
        (folder / f"step-{step:08d}").rename(folder / f"step-{step + 100:08d}")
    run = run_in(folder.parent, CONFIG, resume=True)
    assert run.finished and without_timings(run.metrics) == expected
    assert {"step-00000002", "step-00000004"} < {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("other", [{"seed": 1}, {"method": "grpo"}, {"learning_rate": 0.1}])
def test_a_checkpoint_of_another_run_is_passed_over(folder, expected, tmp_path_factory, other):
    run_in(tmp_path_factory.mktemp("other"), tiny(steps=4, **other))
    shutil.rmtree(folder)
    shutil.copytree(max(folder.parent.parent.glob("other*")) / "checkpoint", folder)
    notes = []
    assert without_timings(run_in(folder.parent, CONFIG, resume=True, on_note=notes.append).metrics) == expected
    assert len(notes) == 2 and all("the steps in metrics.jsonl are not those that led to it" in note for note in notes)


@pytest.mark.parametrize("settings", [{"optimizer": "sgd"}, {"method": "trpo", "learning_rate": 1e-4}])
def test_a_run_without_moments_goes_on_from_its_checkpoint(tmp_path, settings):
    config = tiny(steps=4, **settings)
    run_in(tmp_path, config)
    (tmp_path / "summary.json").unlink()
    training = Training(config)
    assert checkpoints.restore(tmp_path / "checkpoint", training, last_step=4) == []
    assert training.step == 4


# ------------------------------------------------------------------------------ what an update rule has kept

AVERAGED = tiny(steps=4, method="isopo-averaged")


def test_a_run_whose_rule_remembers_goes_on_as_if_it_had_never_stopped(tmp_path):
    run_in(tmp_path, tiny(steps=2, method="isopo-averaged"))
    assert without_timings(run_in(tmp_path, AVERAGED, resume=True).metrics) == without_timings(train(AVERAGED))
    stored = load_file(tmp_path / "checkpoint" / "step-00000004" / "training.safetensors")
    rows = {name: row for name, row in stored.items() if name.startswith("rule/")}
    names = [name for name, _ in Training(AVERAGED).policy.named_parameters()]
    assert sorted(rows) == sorted(f"rule/{name}" for name in names)
    assert all(row.shape == (3,) and row[0] > 0 for row in rows.values())


def without_memory(tensors):
    for name in [name for name in tensors if name.startswith("rule/")]:
        del tensors[name]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_memory, "what the update rule has kept is missing"),
        (lambda t: t.update({"rule/other": torch.ones(3).double()}), "the update rule keeps nothing of 'other'"),
        (lambda t: t.update({"rule/layers.0.bias": torch.ones(2).double()}), "of layers.0.bias is torch.float64 [2]"),
        (lambda t: t.update({"rule/layers.0.bias": torch.ones(3)}), "of layers.0.bias is torch.float32 [3]"),
        (lambda t: t.update({"rule/layers.0.bias": torch.ones(3).double() / 0}), "of layers.0.bias is not finite"),
    ],
)
def test_memory_that_does_not_fit_is_passed_over(tmp_path, change, reason):
    run_in(tmp_path, AVERAGED)
    (tmp_path / "summary.json").unlink()
    changed("training", change)(tmp_path / "checkpoint" / "step-00000004")
    notes = []
    found = run_in(tmp_path, AVERAGED, resume=True, on_note=notes.append)
    assert len(notes) == 1 and reason in notes[0] and "going back further" in notes[0]
    assert without_timings(found.metrics) == without_timings(train(AVERAGED))


def test_a_rule_that_remembers_nothing_takes_no_memory(folder):
    training = Training(CONFIG)
    change = changed("training", lambda tensors: tensors.update({"rule/layers.0.bias": torch.ones(3).double()}))
    change(folder / "step-00000004")
    problems = checkpoints.restore(folder, training, last_step=4)
    assert len(problems) == 1 and "the update rule keeps nothing of 'layers.0.bias'" in problems[0]
    assert training.step == 2
