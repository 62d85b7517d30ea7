"""The ladder as a user runs it, and that every method learns on the way."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from interruptions import Command

from proma_bench.cli.commands import _names
from proma_bench.errors import UsageError
from proma_bench.experiments.ladder import make_plan
from proma_bench.learning.methods import METHODS, all_methods
from proma_bench.report.reading import read_runs
from proma_bench.tiers import TIERS
from proma_bench.tiers.llm.config import LLMConfig

TITLES = {config().title for config in TIERS.values()}


def proma_bench(*arguments):
    command = [sys.executable, "-W", "error", "-m", "proma_bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """One seed of the first tier."""
    root = tmp_path_factory.mktemp("ladder") / "root"
    return root, proma_bench("ladder", "--tiers", "bandit", "--seeds", 1, "--jobs", 2, "--out", root)


def test_it_ends_with_the_claims_and_the_path_of_the_report(ladder):
    root, result = ladder
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.rstrip().endswith(f"report: {root}/report.html")
    assert result.stdout.index("greedy score") < result.stdout.index("local KL is lower")
    assert len(json.loads((root / "claims.json").read_text())) == 16
    assert (root / "plots" / "bandit.png").stat().st_size > 10_000
    for method in METHODS:
        assert f"bandit {method} lr 0.005 seed 0: score" in result.stdout


def test_every_method_learns_the_digits(ladder):
    """From chance, 0.1, in sixty steps. Of ten seeds the worst of any method ended at 0.49."""
    runs = [run for run in read_runs(ladder[0]).runs if run.config["learning_rate"] == 0.005]
    assert {run.config["method"] for run in runs} == set(METHODS)
    for run in runs:
        first, last = run.metrics[0], run.metrics[-1]
        assert first["score"] < 0.3
        assert last["score"] > 0.45
        assert last["entropy"] < 0.6 * first["entropy"]
        assert last["kl_global"] > 0.5


def test_the_plan_is_on_record_and_finished_runs_are_not_repeated(ladder):
    root, _ = ladder
    plan = json.loads((root / "ladder.json").read_text())
    assert plan["seeds"] == 1
    assert plan["methods"] == list(METHODS)
    assert "bootstrap" in plan["criteria"]["bandit"]
    assert plan["learning_rates"] == {"bandit": [0.00125, 0.0025, 0.005, 0.01]}
    stored = json.loads((root / "bandit" / "proma" / "lr-0.01" / "seed-0" / "config.json").read_text())
    assert stored["criteria"]["min_pairs"] == 10
    assert stored["criteria"]["learning_rate"] == 0.005
    metrics = {path: path.read_bytes() for path in root.rglob("metrics.jsonl")}
    again = proma_bench("ladder", "--tiers", "bandit", "--seeds", 1, "--out", root)
    assert "12 of 12 runs are finished already" in again.stdout
    assert metrics == {path: path.read_bytes() for path in root.rglob("metrics.jsonl")}


def test_the_smoke_ladder_climbs_every_tier_of_the_default(tmp_path):
    result = proma_bench("ladder", "--budget", "smoke", "--seeds", 1, "--jobs", 2, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "claims.json").read_text())
    claimed = {"/".join(filter(None, (row["tier"], row["task"]))) for row in rows}
    assert claimed == TITLES - {LLMConfig().title}  # without a model, a smoke run, of which nothing is claimed
    assert "unknown metric" not in result.stdout
    assert "llm/smoke-run: a smoke run with random weights" in result.stdout
    assert (tmp_path / "llm" / "proma" / "lr-2e-06" / "seed-0" / "summary.json").exists()


def test_another_plan_does_not_go_into_the_same_directory(ladder):
    result = proma_bench("ladder", "--tiers", "bandit", "--seeds", 2, "--out", ladder[0])
    assert result.returncode == 2
    assert "holds a different ladder (seeds 1, not 2)" in result.stderr


@pytest.mark.parametrize(
    ("number", "to_all", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143), (signal.SIGKILL, False, -signal.SIGKILL)],
    ids=["Ctrl-C in a terminal", "SIGTERM", "SIGKILL"],
)
def test_workers_end_with_the_ladder_and_leave_what_a_report_can_read(tmp_path, number, to_all, code):
    command = Command("ladder", "--budget", "full", "--tiers", "bandit", "--jobs", "1", "--out", tmp_path)
    until_a_run_is_under_way(command, tmp_path)
    command.send(number, to_all=to_all)
    assert command.end() == code
    assert not command.orphans()
    if number != signal.SIGKILL:
        assert command.errors.count("\n") == 1
        assert "interrupted" in command.errors
    (run,) = read_runs(tmp_path).runs
    assert run.metrics and not run.finished


def test_a_ladder_that_was_killed_is_finished_by_the_same_command(tmp_path):
    arguments = ["ladder", "--budget", "smoke", "--tiers", "bandit", "--seeds", "1", "--jobs", "1", "--out", tmp_path]
    command = Command(*arguments)
    until_a_run_is_under_way(command, tmp_path)
    command.send(signal.SIGKILL)
    command.end()
    again = proma_bench(*arguments)
    assert again.returncode == 0, again.stderr
    assert "failed" not in again.stdout and "in use" not in again.stdout
    assert all(run.finished for run in read_runs(tmp_path).runs)


def until_a_run_is_under_way(command, root):
    while command.process.poll() is None and not any(file.stat().st_size for file in root.rglob("metrics.jsonl")):
        time.sleep(0.01)


def test_seeds_are_paired_and_directories_distinct(tmp_path):
    jobs = make_plan(["bandit"], "quick", None).jobs(tmp_path)
    assert len({job.path for job in jobs}) == len(jobs) == 120
    for method in METHODS:
        configs = [job.config for job in jobs if job.config.method == method]
        assert [config.seed for config in configs] == 4 * list(range(10))
        assert [config.learning_rate for config in configs][::10] == [0.00125, 0.0025, 0.005, 0.01]
        assert {config.steps for config in configs} == {60}
    assert jobs[0].path == tmp_path / "bandit" / "reinforce" / "lr-0.00125" / "seed-0"


def test_the_task_of_a_model_for_the_ladder_on_a_cpu_is_sums(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    jobs = make_plan(["bandit", "llm"], "quick", 2, "models/small").jobs(tmp_path)
    configs = [job.config for job in jobs if job.config.tier == "llm"]
    assert {(config.model, config.task, config.steps) for config in configs} == {
        ("models/small", "basic_arithmetic", 40)
    }
    assert [config.method for config in configs] == [*METHODS, *METHODS]


def test_with_a_gpu_the_ladder_has_the_papers_settings(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    job = make_plan(["llm"], "full", 1).jobs(tmp_path)[0]
    assert (job.config.model, job.config.task, job.config.steps) == ("Qwen/Qwen3-0.6B", "gsm8k", 300)
    config = job.config
    assert (config.prompts, config.group_size, config.steps_per_batch, config.microbatch_size) == (128, 8, 2, 8)
    assert (config.max_prompt_tokens, config.max_new_tokens, config.learning_rate) == (512, 2048, 2e-6)
    assert (config.clip, config.projection, config.sweeps, config.max_removed, config.shrinkage) == (
        0.2, "iterative", 2, 0.5, 1.0
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["bandti"], "quick", None), "unknown tier 'bandti'; did you mean 'bandit'"),
        ((["bandit"], "quik", None), "unknown budget 'quik'; did you mean 'quick'"),
        ((["bandit"], "quick", 0), "seeds must be at least 1, got 0"),
    ],
)
def test_a_wrong_plan_is_one_line(arguments, message):
    with pytest.raises(UsageError, match=message):
        make_plan(*arguments)


def test_all_methods_are_those_of_the_package_once():
    assert _names("all") == list(all_methods())
    assert make_plan(["bandit"], "quick", None, methods=_names("proma,all")).methods[0] == "proma"
    assert len(make_plan(["bandit"], "quick", None, methods=_names("proma,all")).methods) == len(all_methods())
