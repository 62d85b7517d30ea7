"""Intervals, the grouping of runs, the table and the plots."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from proma_bench.errors import UsageError
from proma_bench.report.build import report
from proma_bench.report.statistics import cells, holm, interval
from proma_bench.report.table import summary_table
from proma_bench.runs.directory import FORMAT, Run, write_json


def made_up(path, method="proma", seed=0, steps=4, recorded=None, score=0.5, learning_rate=0.1):
    """A run as it would lie on disk."""
    recorded = steps if recorded is None else recorded
    names = ("reward", "score", "entropy", "kl_local", "kl_global")
    metrics = [{"step": step + 1, **dict.fromkeys(names, score), "clamped": None} for step in range(recorded)]
    config = {
        "format": FORMAT,
        "title": "bandit",
        "tier": "bandit",
        "method": method,
        "seed": seed,
        "learning_rate": learning_rate,
        "steps": steps,
    }
    return Run(path, config, metrics, finished=recorded == steps)


def store(run):
    run.path.mkdir(parents=True)
    write_json(run.path / "config.json", run.config)
    lines = (str(step).replace("'", '"').replace("None", "null") + "\n" for step in run.metrics)
    (run.path / "metrics.jsonl").write_text("".join(lines))
    if run.finished:
        write_json(run.path / "summary.json", {})


def test_intervals_contain_the_truth_about_as_often_as_they_say():
    """Of 10,000 normal samples of each size: 95 %, within four standard errors."""
    for n in (5, 10, 20):
        samples = np.random.default_rng(0).normal(size=(n, 10_000))
        result = interval(samples)
        covered = np.mean((result.low <= 0) & (result.high >= 0))
        assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 10_000)
        np.testing.assert_allclose(result.mean, samples.mean(axis=0))
        assert ((result.low < result.mean) & (result.mean < result.high)).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_fewer_than_five_seeds_have_no_interval(n):
    result = interval(np.arange(float(n)))
    assert result.mean == (n - 1) / 2
    assert math.isnan(result.low) and math.isnan(result.high)


def test_a_value_that_a_seed_lacks_has_no_mean_and_no_interval():
    values = np.ones((6, 3))
    values[2, 1] = math.nan
    for number in interval(values):
        assert np.isnan(number).tolist() == [False, True, False]


def test_p_values_are_adjusted_for_their_number_as_holm_says():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_intervals_are_the_same_every_time():
    values = np.random.default_rng(1).normal(size=10)
    assert interval(values) == interval(values)


def test_equal_seeds_have_an_interval_without_width_and_one_seed_has_none():
    assert interval(np.full(5, 0.25)) == (0.25, 0.25, 0.25)
    assert math.isnan(interval(np.array([0.25])).low)
    assert interval(np.array([0.25])).mean == 0.25


def test_runs_are_grouped_by_method_and_rate_in_the_methods_order(tmp_path):
    runs = [made_up(tmp_path, method, seed) for seed in (1, 0) for method in ("proma", "reinforce", "grpo")]
    runs.append(made_up(tmp_path, "proma", learning_rate=0.05))
    found = cells(runs)
    assert [(cell.method, cell.learning_rate) for cell in found] == [
        ("reinforce", 0.1), ("grpo", 0.1), ("proma", 0.05), ("proma", 0.1),
    ]  # fmt: skip
    assert [run.config["seed"] for run in found[0].runs] == [0, 1]


def test_an_unfinished_run_counts_only_where_nothing_is_finished(tmp_path):
    finished, stopped = made_up(tmp_path), made_up(tmp_path, seed=1, recorded=2)
    assert [cell.runs for cell in cells([finished, stopped])] == [[finished]]
    (cell,) = cells([made_up(tmp_path, recorded=3), stopped])
    assert cell.series("score").shape == (2, 2)
    with pytest.raises(UsageError, match="recorded a step"):
        cells([made_up(tmp_path, recorded=0)])


def test_the_table_shows_means_and_intervals_and_leaves_out_what_was_not_measured(tmp_path):
    runs = [made_up(tmp_path, seed=seed, score=score) for seed, score in enumerate((0.2, 0.3, 0.4, 0.5, 0.6))]
    for seeds, brackets in ((5, True), (4, False)):
        console = Console(file=io.StringIO(), width=120)
        console.print(summary_table("bandit", cells(runs[:seeds])))
        text = console.file.getvalue()
        assert "0.400" in text or not brackets
        assert ("[0.204, 0.596]" in text) == brackets  # 2.776 x sqrt(0.025 / 5) on either side
        assert "0.350" in text or brackets
        assert "nan" not in text
        assert "4 steps" in text


def test_a_small_kl_is_shown_with_two_significant_digits(tmp_path):
    runs = [made_up(tmp_path, seed=seed, score=0.00023) for seed in range(5)]
    console = Console(file=io.StringIO(), width=120)
    console.print(summary_table("bandit", cells(runs)))
    assert "0.00023" in console.file.getvalue()


def test_a_report_has_a_page_and_a_plot_a_tier_and_says_what_is_unfinished(tmp_path):
    store(made_up(tmp_path / "a"))
    store(made_up(tmp_path / "b", "grpo", recorded=2))
    console = Console(file=io.StringIO(), width=300)
    assert report(tmp_path, console) == tmp_path / "report.html"
    plot = tmp_path / "plots" / "bandit.png"
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert str(plot) in console.file.getvalue()
    assert "1 of 2 runs are unfinished" in console.file.getvalue()
