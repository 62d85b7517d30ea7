"""Reports count runs that diverged: claims, figures and tables say how many are missing, and at which step."""

import dataclasses
import json

import pytest
from made_up_runs import FAST, made_up, store
from small_runs import tiny

from proma_bench.cli import main
from proma_bench.learning.methods import METHODS
from proma_bench.report.judging import evaluate
from proma_bench.report.statistics import Cell, cells
from proma_bench.report.table import ablation_table, markdown
from proma_bench.runs.directory import Divergence


def diverged(run, step):
    """The run, had it diverged at this step."""
    reason = "the metric entropy is -inf"
    return dataclasses.replace(run, metrics=run.metrics[: step - 1], finished=False, diverged=Divergence(step, reason))


def compared(tmp_path, seeds, wild):
    """Three methods, of which those in ``wild`` diverge: by method and seed, at which step."""
    runs = []
    for method in METHODS:
        for seed in range(seeds):
            run = made_up(tmp_path / method / str(seed), method, seed, kl_local=0.1 + (method != "proma"))
            runs.append(diverged(run, wild[method, seed]) if (method, seed) in wild else run)
    return runs


def test_claims_say_how_many_pairs_are_missing_because_of_divergence(tmp_path):
    (tier,) = evaluate(compared(tmp_path, 12, {("proma", 3): 1, ("proma", 5): 4, ("grpo", 5): 2, ("grpo", 7): 3}))
    found = {(row.claim, row.baseline): (row.n, row.diverged, row.verdict) for row in tier.results}
    assert found["kl_local", "grpo"] == (9, 3, "inconclusive")
    assert found["kl_local", "reinforce"] == (10, 2, "holds")
    assert [note.partition(";")[0] for note in tier.notes[:2]] == [
        "bandit: grpo with lr 0.1 diverged with 2 of 12 seeds (seed 5 at step 2, seed 7 at step 3)",
        "bandit: proma with lr 0.1 diverged with 2 of 12 seeds (seed 3 at step 1, seed 5 at step 4)",
    ]
    assert not any("unfinished" in note for note in tier.notes)


def test_no_other_learning_rate_is_judged_because_all_diverged_with_the_chosen_one(tmp_path):
    criteria = dataclasses.replace(FAST, learning_rate=0.1)
    runs = []
    for method in METHODS:
        for seed in range(3):
            for rate in (0.1, 0.05):
                run = made_up(tmp_path / f"{method}{rate}{seed}", method, seed, learning_rate=rate, criteria=criteria)
                runs.append(diverged(run, 2) if method == "proma" and rate == 0.1 else run)
    (tier,) = evaluate(runs)
    assert tier.rate == 0.1
    assert {(row.n, row.diverged) for row in tier.results if row.protocol == "same_settings"} == {(0, 3)}


def test_figures_leave_out_what_diverged_and_say_so(tmp_path):
    (cell,) = cells([made_up(tmp_path), diverged(made_up(tmp_path, seed=1), 2)])
    assert cell.series("score").shape == (1, 4)
    assert cell.seeds == "n 1, 1 diverged"
    (cell,) = cells([diverged(made_up(tmp_path), 1), diverged(made_up(tmp_path, seed=1), 3)])
    assert cell.series("score").shape == (0, 0)
    assert cell.seeds == "n 0, 2 diverged"


@pytest.mark.parametrize("wild", [{("proma", 0): 3}, {("proma", seed): 1 for seed in range(3)}, None])
def test_a_report_shows_divergence(wild, tmp_path, capsys):
    """Of one run, of all runs of a method, and of all runs."""
    for run in compared(tmp_path, 3, wild or {(method, seed): 1 for method in METHODS for seed in range(3)}):
        store(run)
    assert main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    count = 1 if wild == {("proma", 0): 3} else 3
    page = (tmp_path / "report.html").read_text()
    note = f"bandit: proma with lr 0.1 diverged with {count} of 3 seeds (seed 0 at step {3 if count == 1 else 1}"
    for text in (out, page):
        assert note in text
        assert f"{count} diverged" in text
        assert "the metric entropy is -inf" in text
    assert "nan" not in out.lower().replace("proma_bench", "")
    rows = json.loads((tmp_path / "claims.json").read_text(), parse_constant=pytest.fail)
    assert {row["diverged"] for row in rows} == {count}


def test_an_ablation_shows_which_variants_diverged(tmp_path):
    config = tiny()
    finished, wild = made_up(tmp_path), diverged(made_up(tmp_path, seed=1), 2)
    table = ablation_table(
        config,
        {"steady": Cell("bandit", "proma", 0.1, [finished]), "wild": Cell("bandit", "proma", 0.1, [], [wild, wild]),
         "both": Cell("bandit", "proma", 0.1, [finished], [wild])},
        2,
    )  # fmt: skip
    text = markdown(table)
    assert "| wild (n 0, 2 diverged) | diverged |" in text
    assert "| both (n 1, 1 diverged) | 0.500 |" in text
