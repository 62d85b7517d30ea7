"""Update rules as methods of the ladder: those of the package by their names, and the user's from a file."""

import json
import shutil
import sys

import pytest
import torch
from rich.console import Console
from small_runs import options_of, tiny, without_timings

from proma_bench import ProjectionConfig
from proma_bench.cli import main
from proma_bench.cli.commands import _parse
from proma_bench.errors import RunError, UsageError
from proma_bench.experiments.ladder import _as_json, _record, climb, make_plan
from proma_bench.experiments.run import run_in
from proma_bench.experiments.training import Training, train
from proma_bench.learning.methods import METHODS, OTHER_METHODS, method_named
from proma_bench.learning.rules import chosen_rule, users_rule
from proma_bench.projection.rules import UPDATE_RULES
from proma_bench.projection.rules.isopo import Isopo
from proma_bench.projection.rules.shrink import Shrink
from proma_bench.report.paired import comparable
from proma_bench.report.plots import style_of
from proma_bench.report.reading import read_runs
from proma_bench.report.settings import commands
from proma_bench.tiers import TIERS

FILE = """
from dataclasses import dataclass

import torch
from proma_bench.projection.updates import Update

def damped(gram, overlap, advantages, *, strength=1.0):
    return advantages / (strength + gram.diagonal(dim1=-2, dim2=-1))

@dataclass(frozen=True)
class Halved:
    share: float = 0.5
    plain_first = True

    def __call__(self, gram, overlap, advantages):
        return Update(advantages, kept=self.share)

calls = 0

def gives_up(gram, overlap, advantages):
    global calls
    calls += 1
    if calls > 20:
        raise ArithmeticError("enough\\nof it")
    return advantages

def raises(gram, overlap, advantages):
    raise ArithmeticError("never")

def sums(gram, overlap, advantages):
    return advantages.sum(-1)

def divides(gram, overlap, advantages):
    return advantages / 0

def takes_two(gram, overlap):
    return overlap

number = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


# ------------------------------------------------------------------------------------------ those of the package


def test_every_rule_of_the_package_is_a_method_that_no_ladder_runs_unasked():
    rules = {name for name, method in OTHER_METHODS.items() if method.rule is not None}
    assert rules == set(UPDATE_RULES)
    assert make_plan(["bandit"], "smoke", 1).methods == list(METHODS) == ["reinforce", "grpo", "proma"]


@pytest.mark.parametrize("method", sorted(UPDATE_RULES))
def test_a_run_of_a_rule_has_its_metrics(method):
    training = Training(tiny(method=method, steps=2))
    assert type(training.proma.rule) is UPDATE_RULES[method]
    first, second = train(tiny(method=method, steps=2))
    assert second["grad_norm"] > 0 and second["kl_local"] > 0
    assert set(second["removed_by_layer"]) == {name for name, _ in training.policy.named_parameters()}
    assert without_timings(train(tiny(method=method, steps=2))) == without_timings([first, second])


def test_what_is_observed_is_in_the_metrics():
    observed, plain = train(tiny(method="observe")), train(tiny(method="reinforce"))
    for step in observed:
        assert 1 <= step["effective_rank"] <= 4 and 0 <= step["conflicts"] <= 1 and step["noise_scale"] != 0
        assert step["removed_ratio"] == 0
    names = ("score", "kl_local", "entropy", "reward")
    assert [step["reward"] for step in observed] == [step["reward"] for step in plain]
    for step, other in zip(observed, plain, strict=True):
        assert [step[name] for name in names] == pytest.approx([other[name] for name in names], rel=0.02)


def test_a_step_of_one_microbatch_has_no_elsewhere(tmp_path):
    with pytest.raises(RunError, match="PROMA cannot take this step: the rule elsewhere needs another microbatch"):
        run_in(tmp_path / "run", tiny(method="elsewhere", microbatch_size=16))


def test_settings_of_a_rule_and_of_the_projection_it_uses_reach_it():
    assert chosen_rule(tiny(method="isopo", rule_settings={"regularisation": 0.5})).rule == Isopo(0.5)
    assert chosen_rule(tiny(method="shrink", projection="exact")).rule == Shrink(ProjectionConfig("exact"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regularization": 1.0}, r"isopo has no setting 'regularization' \(it has: regularisation\)"),
        ({"regularisation": 0.0}, "isopo: regularisation must be a finite number above 0, got 0.0"),
    ],
)
def test_a_setting_that_a_rule_does_not_have_is_refused(settings, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        run_in(tmp_path / "run", tiny(method="isopo", rule_settings=settings))
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- those in a file


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


def test_a_function_in_a_file_is_a_method_and_its_text_is_kept(file, tmp_path, capsys):
    out, name = tmp_path / "run", f"{file}:damped"
    config = tiny(method=name, steps=4)
    assert run(capsys, "run", "bandit", *options_of(config), "--out", out) == (0, "")
    assert (out / "rule.py").read_text() == FILE
    assert json.loads((out / "config.json").read_text())["method"] == name
    (found,) = read_runs(out).runs
    assert without_timings(found.metrics) == without_timings(train(config))
    assert found.metrics[-1]["removed_ratio"] > 0


def test_settings_reach_a_function_and_a_class(file):
    weaker = chosen_rule(tiny(method=f"{file}:damped", rule_settings={"strength": 3.0})).rule
    gram, advantages = torch.ones(1, 1).double(), torch.ones(1).double()
    assert weaker(gram, advantages, advantages).tolist() == [0.25]
    assert chosen_rule(tiny(method=f"{file}:Halved", rule_settings={"share": 0.25})).rule.share == 0.25
    assert Training(tiny(method=f"{file}:Halved")).proma.rule.plain_first


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dampd", "has no function 'dampd'; did you mean 'damped'?"),
        ("number", "has no function 'number'"),
        ("raises", "the rule raises in FILE raised ArithmeticError: never"),
        ("sums", "the rule sums in FILE returned coefficients of shape [2]; it must be [2, 1]"),
        ("divides", "the rule divides in FILE returned coefficients with NaN or infinity, from finite arguments"),
        ("takes_two", "the rule takes_two in FILE must take (gram, overlap, advantages), and at most running_norm by "),
        ("", "in at most 120 printable characters, got '"),
    ],
)
def test_what_is_no_rule_is_one_line_that_names_it_and_leaves_nothing(file, tmp_path, capsys, name, message):
    out = tmp_path / "out"
    for command in (
        ["run", "bandit", "--method", f"{file}:{name}", "--out", out],
        ["ladder", "--tiers", "bandit", "--methods", f"reinforce,{file}:{name}", "--out", out],
    ):
        code, err = run(capsys, *command)
        assert code == 2 and err.count("\n") == 1 and err.startswith("proma-bench: ")
        assert message.replace("FILE", str(file)) in err and str(file) in err
        assert not out.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory"),
        (b"1 / 0", "ZeroDivisionError: division by zero"),
        (b"def f(:", "SyntaxError: "),
        (b"raise SystemExit(0)", "SystemExit: 0"),
        (b"import pytest; pytest.importorskip('not_there')", "Skipped: could not import 'not_there'"),
        (b"import not_there", "No module named 'not_there'"),
        (b"\xff", "it is not UTF-8"),
        (b"#" * (2**20 + 1), "more than the 1,048,576 that are read"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line(tmp_path, capsys, text, message):
    path, out = tmp_path / "broken.py", tmp_path / "out"
    if text is not None:
        path.write_bytes(text)
    code, err = run(capsys, "run", "bandit", "--method", f"{path}:f", "--out", out)
    assert code == 2 and err.count("\n") == 1 and str(path) in err and message in err
    assert not out.exists()


def test_a_function_that_gives_up_later_ends_the_run_in_one_line(file, tmp_path):
    with pytest.raises(
        RunError, match=r"the rule gives_up in .*mine.py raised ArithmeticError: enough of it"
    ) as caught:
        run_in(tmp_path / "run", tiny(method=f"{file}:gives_up", steps=40))
    assert "\n" not in str(caught.value)


def test_a_run_goes_on_with_the_same_file_alone(file, tmp_path):
    out, config = tmp_path / "run", tiny(method=f"{file}:damped", steps=2)
    run_in(out, config)
    stored = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    file.write_text(FILE.replace("strength +", "2 * strength +"))
    with pytest.raises(UsageError, match="the file with the update rule has changed"):
        run_in(out, tiny(method=f"{file}:damped", steps=4), resume=True)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == stored
    file.write_text(FILE)
    longer = run_in(out, tiny(method=f"{file}:damped", steps=4), resume=True)
    assert len(longer.metrics) == 4


def test_a_function_in_a_module_is_a_method_as_well(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, file.stem, raising=False)
    found = chosen_rule(tiny(method=f"{file.stem}:damped", rule_settings={"strength": 3.0}))
    one = torch.ones(1).double()
    assert found.rule(torch.ones(1, 1).double(), one, one).tolist() == [0.25]
    assert found.source == FILE


AT_TWO = "def f(gram, overlap, advantages):\n    assert advantages.shape[-1] != 2\n    return advantages\n"
"""A rule that fails with microbatches of two sequences."""


def test_a_rule_is_tried_with_the_microbatches_of_the_run(tmp_path, capsys):
    path, out = tmp_path / "two.py", tmp_path / "out"
    path.write_text(AT_TWO)
    code, err = run(capsys, "run", "bandit", "--method", f"{path}:f", "--microbatch-size", 2, "--out", out)
    assert code == 2 and "raised AssertionError" in err and not out.exists()
    path.write_text(AT_TWO.replace("!= 2", f"!= {TIERS['bandit']().microbatch_size}"))
    code, err = run(capsys, "ladder", "--tiers", "bandit", "--methods", f"{path}:f", "--out", out)
    assert code == 2 and "raised AssertionError" in err and not out.exists()


def test_a_rule_that_was_repaired_before_the_first_step_goes_on(file, tmp_path):
    out, config = tmp_path / "run", tiny(method=f"{file}:damped", steps=2)
    file.write_text(FILE.replace("strength=1.0):\n", "strength=1.0):\n    assert len(gram) < 3, 'three tensors'\n"))
    with pytest.raises(RunError, match="three tensors"):
        run_in(out, config)
    file.write_text(FILE)
    assert run_in(out, config, resume=True).finished
    assert (out / "rule.py").read_text() == FILE


def test_what_a_runs_directory_holds_is_never_executed(file, tmp_path):
    out, config = tmp_path / "run", tiny(method=f"{file}:damped", steps=2)
    run_in(out, config)
    (out / "rule.py").write_text("raise SystemExit('executed')")
    assert len(read_runs(out).runs) == 1
    with pytest.raises(UsageError, match="has changed"):
        run_in(out, config, resume=True)
    (out / "rule.py").unlink()
    (out / "rule.py").symlink_to(file)
    with pytest.raises(RunError, match=r"cannot read .*rule.py"):
        run_in(out, config, resume=True)


# --------------------------------------------------------------------------------------------------- the ladder


def test_a_ladder_compares_the_methods_that_are_named(file, tmp_path):
    out, methods, console = tmp_path / "ladder", ["isopo", f"{file}:damped"], Console(quiet=True)
    climb(make_plan(["bandit"], "smoke", 1, methods=methods), out, 1, console)
    plan = json.loads((out / "ladder.json").read_text())
    assert plan["methods"] == methods and list(plan["rules"]) == methods[1:]
    assert {path.name for path in (out / "bandit").iterdir()} == {"isopo", "mine.py-damped"}
    runs = read_runs(out).runs
    assert {run.config["method"] for run in runs} == set(methods)
    (command,) = commands(out, runs)
    assert command.endswith(f"--seeds 1 --methods {','.join(methods)}") and callable(_parse(command.split()[1:]))
    file.write_text(FILE + "# another")
    with pytest.raises(UsageError, match=r"holds a different ladder \(rules "):
        climb(make_plan(["bandit"], "smoke", 1, methods=methods), out, 1, console)


def test_a_ladder_goes_on_with_a_rule_that_was_repaired_before_its_first_step(file, tmp_path):
    out, methods, console = tmp_path / "ladder", [f"{file}:damped"], Console(quiet=True)
    _record(make_plan(["bandit"], "smoke", 1, methods=methods), out)
    file.write_text(FILE + "# repaired")
    plan = make_plan(["bandit"], "smoke", 1, methods=methods)
    climb(plan, out, 1, console)
    assert json.loads((out / "ladder.json").read_text())["rules"] == plan.rules


def test_runs_of_two_versions_of_a_file_are_not_one_method(file, tmp_path):
    out = tmp_path / "runs"
    for seed, version in enumerate([FILE, FILE, FILE + "# another"]):
        file.write_text(version)
        run_in(out / str(seed), tiny(method=f"{file}:damped", steps=2, seed=seed))
    (found,) = comparable(read_runs(out).runs)
    assert {seed for _, _, seed in found.runs} == {0, 1}
    assert any(
        f"1 of 3 runs of {file}:damped were made with another version of its file" in line for line in found.notes
    )


def test_tables_name_a_rule_without_its_folder():
    assert style_of("/a/far/folder/mine.py:damped").title == "mine.py:damped"


def test_two_methods_need_two_directories(file, tmp_path):
    other = tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    shutil.copy(file, other)
    with pytest.raises(UsageError, match=r"two methods would have the directory 'mine.py-damped'"):
        make_plan(["bandit"], "smoke", 1, methods=[f"{file}:damped", f"{other}:damped"])


def test_a_ladder_of_known_methods_is_recorded_as_before():
    assert "rules" not in _as_json(make_plan(["bandit"], "smoke", 1))


def test_the_directory_of_a_method_is_one_name():
    assert method_named("proma").folder == "proma"
    assert method_named("/deep/../own rules.py:f").folder == "own-rules.py-f"
    assert method_named("x/..py:f").folder == "..py-f"


def test_a_file_is_read_when_the_run_begins(file):
    found = users_rule(f"{file}:damped")
    assert found.source == FILE
