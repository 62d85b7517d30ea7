"""The leaderboard, on runs whose numbers are known, and against a computation of its own."""

import numpy as np
import pytest
from made_up_runs import made_up
from scipy import stats

from proma_bench.report.claims import lower_and_higher
from proma_bench.report.judging import evaluate
from proma_bench.report.leaderboard import leaderboard
from proma_bench.report.standings import NOTHING, grids
from proma_bench.runs.criteria import Criteria
from proma_bench.runs.directory import Divergence

RATES = (0.1, 0.2)
CRITERIA = Criteria(learning_rate=0.1, resamples=1000)
GAIN = {"reinforce": 1.0, "proma": 1.4, "shrink": 0.6}
STEPS = 12


def run_of(path, method, seed, rate, *, spend=1.0, **curves):
    """A score that rises to a gain of the method's own, at a KL that grows with the square of the rate."""
    noise = np.random.default_rng([seed, len(method), round(1e6 * rate)]).normal(scale=0.01)
    end = GAIN[method] * rate * 2 + noise
    score = list(np.linspace(0.05, 0.05 + end, STEPS))
    kl = [spend * rate**2] * STEPS
    made = {"score": score, "score_sampled": [value / 2 for value in score], "kl_local": kl, "entropy": 1.0}
    made["kl_local_unseen"] = [1.25 * value for value in kl]
    made |= {"update_seconds": {"reinforce": 1.0}.get(method, 1.5)} | curves
    return made_up(path / method / str(rate) / str(seed), method, seed, rate, CRITERIA, **made)


@pytest.fixture
def runs(tmp_path):
    return [run_of(tmp_path, method, seed, rate) for method in GAIN for rate in RATES for seed in range(10)]


def board_of(runs):
    (tier,) = evaluate(runs)
    return leaderboard(tier)


def test_each_method_stands_at_the_rate_with_its_best_mean_final_score(runs):
    board = board_of(runs)
    assert [one.method for one in board.standings] == ["reinforce", "proma", "shrink"]
    assert board.rates == list(RATES)
    for one in board.standings:
        finals = {rate: [run.metrics[-1]["score"] for run in runs if _is(run, one.method, rate)] for rate in RATES}
        assert one.learning_rate == max(RATES, key=lambda rate: np.mean(finals[rate])) == 0.2
        best = np.array(finals[0.2])
        low, high = stats.t.interval(0.95, 9, best.mean(), stats.sem(best))
        assert one.score == pytest.approx((best.mean(), low, high))
        assert one.kl_spent.mean == pytest.approx(STEPS * 0.04)
        assert one.unseen.mean == pytest.approx(1.25)
        assert one.per_nat.mean == pytest.approx((best.mean() - 0.05) / (STEPS * 0.04))
        assert one.score_sampled.mean == pytest.approx(best.mean() / 2)
        assert one.cost.mean == pytest.approx(1.0 if one.method == "reinforce" else 1.5)
        assert one.at_edge


def test_a_lower_rate_can_be_the_best(tmp_path, runs):
    better = [run_of(tmp_path / "x", "proma", seed, 0.05, score=[0.05, *[0.99] * 11]) for seed in range(10)]
    others = [run_of(tmp_path / "x", method, seed, 0.05) for method in ("reinforce", "shrink") for seed in range(10)]
    found = {one.method: one for one in board_of([*runs, *better, *others]).standings}
    assert found["proma"].learning_rate == 0.05 and found["proma"].at_edge
    assert found["shrink"].learning_rate == 0.2


def test_differences_at_equal_mean_local_kl_are_paired_by_seed(tmp_path, runs):
    """At 0.1, REINFORCE spends 0.01 a step. PROMA has a rate of its own with that KL, `shrink` has none."""
    own = [run_of(tmp_path / "own", "proma", seed, 0.123, spend=0.0102 / 0.123**2) for seed in range(10)]
    others = [run for run in runs if not _is(run, "proma") and not _is(run, "shrink", 0.1)]
    swept = [run_of(tmp_path / "swept", "proma", seed, rate, spend=3.0) for seed in range(10) for rate in RATES]
    board = board_of([*others, *own, *swept])
    assert board.target == pytest.approx(0.01)
    assert board.rates == list(RATES)  # the matched rate is no part of the sweep
    assert set(board.matched) == {"reinforce", "proma"}
    matched = board.matched["proma"]
    assert matched.learning_rate == 0.123 and matched.kl_local == pytest.approx(0.0102)
    mine = np.array([run.metrics[-1]["score"] for run in own])
    base = np.array([run.metrics[-1]["score"] for run in runs if _is(run, "reinforce", 0.1)])
    middle = np.sort(mine - base)[2:8].mean()
    assert matched.scores["score"].found.estimate == pytest.approx(middle)
    assert matched.scores["score"].found.low < middle < matched.scores["score"].found.high
    assert matched.scores["score"].verdict == "holds" and matched.scores["score"].p_holm < 0.001
    assert matched.below_ours is None


def test_proma_is_compared_with_every_other_at_its_matched_rate(runs):
    board = board_of(runs)  # all spend the same here
    shrink = board.matched["shrink"]
    assert shrink.scores["score"].verdict == "fails"
    assert shrink.below_ours.verdict == "holds"
    expected = [
        mine.metrics[-1]["score"] - other.metrics[-1]["score"]
        for mine, other in zip(
            [run for run in runs if _is(run, "proma", 0.1)], [run for run in runs if _is(run, "shrink", 0.1)],
            strict=True,
        )
    ]  # fmt: skip
    assert shrink.below_ours.found.estimate == pytest.approx(np.sort(expected)[2:8].mean())


def test_p_values_are_adjusted_for_the_number_of_methods(tmp_path, runs):
    alone = board_of([run for run in runs if not _is(run, "shrink")]).matched["proma"].scores["score"].p_holm
    assert board_of(runs).matched["proma"].scores["score"].p_holm == pytest.approx(2 * alone)


def test_the_baseline_against_itself_is_no_verdict(runs):
    same = board_of(runs).matched["reinforce"].scores["score"]
    assert (same.found.estimate, same.verdict) == (0.0, "inconclusive")
    assert np.isnan(same.p_holm)


def test_along_the_sweep_stands_every_method_beside_the_placebo(runs):
    board = board_of(runs)
    assert set(board.along) == set(board.placebos) == {"score_per_kl", "kl_local", "entropy"}
    assert set(board.along["score_per_kl"]) == {"proma", "shrink"}
    proma, shrink = (board.along["score_per_kl"][method].found for method in ("proma", "shrink"))
    assert proma.low > 0 > shrink.high


def test_without_reinforce_there_is_one_table(runs):
    board = board_of([run for run in runs if not _is(run, "reinforce")])
    assert not board.matched and not board.along
    assert len(grids(board)) == 1
    assert {row[-1] for row in grids(board)[0].rows} != {NOTHING}


def test_diverged_runs_are_counted_and_missing(tmp_path, runs):
    left = [run for run in runs if not (_is(run, "shrink") and run.config["seed"] == 3)]
    diverged = [run_of(tmp_path / "diverged", "shrink", 3, rate) for rate in RATES]
    ended = [run.__class__(run.path, run.config, run.metrics[:2], False, Divergence(3, "NaN")) for run in diverged]
    shrink = next(one for one in board_of([*left, *ended]).standings if one.method == "shrink")
    assert (shrink.n, shrink.diverged) == (9, 1)
    cells = next(row for row in grids(board_of([*left, *ended]))[0].rows if row[0] == "shrinking")
    assert "n 9, 1 diverged" in cells[1]


def test_what_was_not_measured_is_a_dash_or_no_column(runs):
    for run in runs:
        for step in run.metrics:
            del step["score_sampled"], step["update_seconds"]
    best, against = grids(board_of(runs))
    assert "final sampled score" not in best.headings and "time of an update" not in best.headings
    assert not any("sampled" in heading for heading in against.headings)
    assert all(len(row) == len(grid.headings) for grid in (best, against) for row in grid.rows)


def test_nothing_is_matched_where_the_baseline_has_no_local_kl(runs):
    for run in runs:
        if _is(run, "reinforce"):
            for step in run.metrics:
                step["kl_local"] = None
    board = board_of(runs)
    assert not board.matched
    assert len(grids(board)) == 2


def test_fewer_than_five_seeds_have_means_and_no_intervals(runs):
    best, against = grids(board_of([run for run in runs if run.config["seed"] < 4]))
    assert all("[" not in cell for row in best.rows for cell in row)
    assert all("✓" not in cell and "✗" not in cell for row in against.rows for cell in row)


def _is(run, method, rate=None):
    return run.config["method"] == method and rate in (None, run.config["learning_rate"])


def test_the_matched_rate_of_the_only_other_method_is_no_rate_of_the_sweep(tmp_path, runs):
    two = [run for run in runs if not _is(run, "shrink")]
    own = [run_of(tmp_path / "own", "proma", seed, 0.123, spend=0.0102 / 0.123**2) for seed in range(10)]
    assert board_of([*two, *own]).rates == list(RATES)


def test_what_many_seeds_survived_is_no_best_rate(tmp_path, runs):
    left = [run for run in runs if not (_is(run, "shrink", 0.2) and run.config["seed"] > 0)]
    gone = [run_of(tmp_path / "gone", "shrink", seed, 0.2) for seed in range(1, 10)]
    ended = [run.__class__(run.path, run.config, run.metrics[:2], False, Divergence(3, "NaN")) for run in gone]
    board = board_of([*left, *ended])
    shrink = next(one for one in board.standings if one.method == "shrink")
    assert (shrink.learning_rate, shrink.n) == (0.1, 10)


def test_observe_is_the_baseline_and_no_method_of_its_own(tmp_path, runs):
    observed = [
        made_up(tmp_path / "o" / str(number), "observe", run.config["seed"], run.config["learning_rate"], CRITERIA)
        for number, run in enumerate(run for run in runs if _is(run, "reinforce"))
    ]
    assert [one.method for one in board_of([*runs, *observed]).standings] == ["reinforce", "proma", "shrink"]


def test_the_halves_of_a_placebo_share_no_rate():
    for rates in range(1, 9):
        first, second = (set(range(rates)[part]) for part in lower_and_higher(rates))
        assert not first & second and len(first) == len(second) == rates // 2
        assert all(low < high for low in first for high in second)
