"""The claims on runs whose truth is known."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import FAST, made_up
from scipy import stats

from proma_bench.errors import UsageError
from proma_bench.report.judging import evaluate, judge, write_claims
from proma_bench.report.matrix import details, figures
from proma_bench.report.paired import Estimate, comparable, estimate, p_value
from proma_bench.report.statistics import holm
from proma_bench.runs.criteria import Criteria, criteria_for, from_json, to_json
from proma_bench.tiers.bandit.config import BanditConfig

METHODS = ("reinforce", "grpo", "proma")
PATH = Path("run")


def comparison(effect=0.0, noise=0.1, seeds=10, generator=None, metric="kl_local", **settings):
    """Three methods with the same noisy metric, PROMA's lower by ``effect``; what a seed has in common cancels."""
    generator = generator or np.random.default_rng(0)
    runs = []
    for seed in range(seeds):
        common = generator.normal()
        for method in METHODS:
            value = common + noise * generator.normal() - (effect if method == "proma" else 0)
            runs.append(made_up(PATH, method, seed, **{metric: float(value)}, **settings))
    return runs


def result_of(runs, claim="kl_local", baseline="grpo", protocol="same_settings"):
    (tier,) = evaluate(runs)
    (found,) = (f for f in tier.results if (f.claim, f.baseline, f.protocol) == (claim, baseline, protocol))
    return found


# ------------------------------------------------------------------------------------------------- verdicts


def test_a_true_difference_is_found():
    found = result_of(comparison(effect=0.3))
    assert found.verdict == "holds"
    assert found.n == 10
    assert found.ci_low < -0.3 < found.ci_high < 0
    assert result_of(comparison(effect=-0.3)).verdict == "fails"


def test_without_a_difference_a_claim_holds_no_more_often_than_the_nominal_rate():
    """Of 200 comparisons, 2.5 %, half of what a 95 % interval leaves out: more than ten with probability 0.013.

    As the seed is fixed, the test passes always or never. (For every claim: `test_false_verdicts.py`.)
    """
    generator = np.random.default_rng(20)
    verdicts = [result_of(comparison(generator=generator)).verdict for _ in range(200)]
    assert verdicts.count("holds") <= 10
    assert stats.binom.sf(10, 200, 0.025) < 0.014


@pytest.mark.parametrize("n", [5, 7, 10, 20])
@pytest.mark.parametrize("name", ["normal", "heavy tails", "uniform", "ties"])
def test_the_interval_keeps_its_level_for_few_pairs(name, n):
    """Of 2,000 samples without a difference, 2.5 % have it below zero: more than 70 with probability 0.003."""
    generator = np.random.default_rng(1)
    draw = {
        "normal": lambda: generator.normal(size=n),
        "heavy tails": lambda: generator.standard_t(3, size=n),
        "uniform": lambda: generator.uniform(-1, 1, size=n),
        "ties": lambda: generator.choice([-1.0, 0.0, 0.0, 0.0, 1.0], size=n),
    }[name]
    below = sum(estimate(list(draw()), FAST).high < 0 for _ in range(2000))
    assert below <= 70


def test_seeds_that_failed_beside_many_equal_ones_are_no_certainty():
    """Two of ten lost 100: trimming drops them, the interval does not."""
    found = estimate([0.0] * 8 + [-100.0] * 2, FAST)
    assert found.estimate == 0
    assert found.low < -20


@pytest.mark.parametrize(
    ("statement", "low", "high", "verdict"),
    [
        ("lower", -2.0, -1.0, "holds"),
        ("lower", -2.0, 0.0, "inconclusive"),
        ("lower", 0.5, 1.0, "fails"),
        ("higher", 0.5, 1.0, "holds"),
        ("higher", -0.5, 1.0, "inconclusive"),
        ("higher", -1.0, -0.5, "fails"),
        ("not lower", -0.02, 0.5, "holds"),
        ("not lower", -0.021, 0.5, "inconclusive"),
        ("not lower", -0.5, -0.02, "inconclusive"),
        ("not lower", -0.5, -0.021, "fails"),
    ],
)
def test_verdicts_follow_from_the_interval(statement, low, high, verdict):
    assert judge(statement, Estimate((low + high) / 2, low, high, 10), Criteria(margin=0.02)) == verdict
    assert judge(statement, Estimate((low + high) / 2, low, high, 9), Criteria(margin=0.02)) == "inconclusive"


def test_too_few_seeds_are_inconclusive_however_large_the_difference():
    found = result_of(comparison(effect=100.0, seeds=9))
    assert (found.n, found.verdict) == (9, "inconclusive")
    found = result_of(comparison(effect=100.0, seeds=2))
    assert (found.n, found.ci_low, found.verdict) == (2, None, "inconclusive")


def test_only_pairs_count():
    runs = [run for run in comparison(seeds=14) if run.config["method"] != "grpo" or run.config["seed"] >= 4]
    assert result_of(runs).n == 10
    assert result_of(runs, baseline="reinforce").n == 14
    found = result_of([run for run in runs if run.config["method"] != "grpo"])
    assert (found.n, found.estimate, found.verdict) == (0, None, "inconclusive")


def test_equal_differences_have_an_interval_without_width():
    assert estimate([-0.25] * 10, FAST) == (-0.25, -0.25, -0.25, 10)
    assert result_of(comparison(effect=0.0, noise=0.0)).verdict == "inconclusive"
    result = estimate([1.0, math.nan, 2.0], FAST)
    assert (result.estimate, result.n, math.isnan(result.low)) == (1.5, 2, True)


def test_one_wild_seed_does_not_move_the_estimate():
    calm = estimate([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], FAST).estimate
    assert estimate([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1e9], FAST).estimate == calm


def test_the_margin_comes_from_the_runs_rule():
    """PROMA's score is lower by 0.1 in every seed."""
    for margin, verdict in ((0.2, "holds"), (0.05, "fails")):
        criteria = Criteria(margin=margin)
        runs = comparison(effect=0.1, noise=0.0, metric="score", criteria=criteria)
        assert result_of(runs, "score").verdict == verdict


def test_the_margin_is_a_share_of_the_score_range():
    class Returns(BanditConfig):
        score_range = (-500.0, 0.0)

    class Unknown(BanditConfig):
        score_range = None

    assert criteria_for(BanditConfig()).margin == 0.02
    assert criteria_for(BanditConfig(learning_rate=0.3)).learning_rate == 0.005
    assert criteria_for(Returns()).margin == 10
    assert criteria_for(Unknown()).margin == 0


def test_entropy_must_be_higher_at_the_same_step_and_at_the_same_score():
    """PROMA learns half as fast and loses entropy with the score twice as fast as the others: equal at each step."""
    grid = np.linspace(0, 1, 41)
    runs = []
    for seed, method in itertools.product(range(10), METHODS):
        speed, loss = (0.5, 2.2) if method == "proma" else (1.0, 1.2)
        curves = {"score": list(speed * grid), "entropy": list(3 - loss * speed * grid)}
        runs.append(made_up(PATH, method, seed, criteria=Criteria(smoothing=1), **curves))
    found = result_of(runs, "entropy", "grpo")
    assert found.verdict == "fails"  # at the same step alone it would hold
    assert found.estimate == pytest.approx(-0.25)  # the mean of (1.2 - 2.2) x score over scores 0 to 0.5
    higher = [made_up(PATH, m, s, score=list(grid), entropy=2.0 + (m == "proma")) for s in range(10) for m in METHODS]
    assert result_of(higher, "entropy", "grpo").verdict == "holds"


# ------------------------------------------------------------------------------------------------- protocols


def sweep(kl_of_rate, rates=(0.1, 0.2), seeds=10):
    """PROMA reaches every score twice as fast; local KL is the score plus what ``kl_of_rate`` says."""
    grid = np.linspace(0, 0.5, 21)
    runs = []
    for rate, seed, method in itertools.product(rates, range(seeds), METHODS):
        score = grid * (2 if method == "proma" else 1)
        curves = {"score": list(score), "kl_local": list(score + kl_of_rate(method, rate))}
        runs.append(made_up(PATH, method, seed, rate, **curves))
    return runs


def test_the_frontier_compares_at_equal_score():
    """Step by step PROMA has the higher KL, as it is further along; at equal score the lower one, by 0.2."""
    runs = sweep(lambda method, rate: rate + (0.1 if method == "proma" else 0.3))
    assert result_of(runs).verdict == "fails" or result_of(runs).estimate > -0.2
    found = result_of(runs, protocol="frontier")
    assert found.estimate == pytest.approx(-0.2)
    assert (found.n, found.verdict) == (10, "holds")


def test_each_method_has_its_own_best_learning_rate_on_the_frontier():
    """PROMA's best is at the first rate and GRPO's at the second; both reach the same KL there."""
    best = {"proma": 0.1, "grpo": 0.2, "reinforce": 0.2}
    runs = sweep(lambda method, rate: 0.0 if rate == best[method] else 5.0)
    assert result_of(runs, protocol="frontier").estimate == pytest.approx(0.0, abs=1e-9)


def test_a_seed_counts_on_the_frontier_when_it_has_every_rate():
    runs = [run for run in sweep(lambda *_: 0.0) if run.config["learning_rate"] != 0.2 or run.config["seed"] >= 3]
    (tier,) = evaluate(runs)
    assert tier.rates == [0.1, 0.2]
    assert result_of(runs, protocol="frontier").n == 7
    assert result_of(runs).n == 10


def test_a_single_rate_has_no_frontier_and_a_stray_one_does_not_spoil_it():
    runs = comparison()
    (tier,) = evaluate(runs)
    assert {found.protocol for found in tier.results} == {"same_settings"}
    assert "no frontier" in tier.notes[0]
    stray = [made_up(PATH, method, 0, 0.7) for method in METHODS]
    (tier,) = evaluate([*sweep(lambda *_: 0.0), *stray])
    assert tier.rates == [0.1, 0.2]


def test_the_same_settings_rate_is_the_rules_or_else_the_one_with_most_pairs():
    runs = sweep(lambda *_: 0.0)
    assert evaluate(runs)[0].rate == 0.1
    for run in runs:
        run.config["criteria"]["learning_rate"] = 0.2
    assert evaluate(runs)[0].rate == 0.2
    assert evaluate(runs[30:] + runs[:6])[0].rate == 0.2


# -------------------------------------------------------------------------------------- what can be compared


def test_runs_of_other_settings_are_left_out_and_named():
    runs = comparison()
    other = made_up(Path("other"), "proma", 11)
    other.config["initial_states"] = 3
    ablation = made_up(Path("ablation"), "proma", 12)
    ablation.config["max_removed"] = 7.0
    twice = made_up(Path("twice"), "proma", 0)
    unfinished = made_up(Path("unfinished"), "proma", 13)
    unfinished.metrics.pop()
    (found,) = comparable([*runs, other, ablation, twice, unfinished])
    assert len(found.runs) == 30
    assert found.notes == [
        "bandit: 2 of 34 runs have other settings and are left out: other and 1 more",
        "bandit: 1 of 34 runs are unfinished and count in no claim",
        "bandit: twice repeats run and counts in no claim",
    ]


def test_environments_are_judged_apart():
    runs = comparison(tier="gym")
    for run in runs:
        run.config["title"] = "gym/CartPole-v1" if run.config["seed"] < 5 else "gym/Acrobot-v1"
    assert [(tier.comparable.title, tier.results[0].n) for tier in evaluate(runs)] == [
        ("gym/Acrobot-v1", 5), ("gym/CartPole-v1", 5),
    ]  # fmt: skip


def test_the_rule_is_read_from_the_runs_and_said_to_be_missing(tmp_path):
    (tier,) = evaluate(comparison(criteria=None))
    assert tier.criteria == Criteria()
    assert "no criteria were fixed" in tier.notes[0]
    mixed = [*comparison(seeds=5), *comparison(criteria=Criteria(min_pairs=20))[15:]]
    (tier,) = evaluate(mixed)
    assert tier.criteria.min_pairs == 20
    assert "different criteria" in tier.notes[0]


@pytest.mark.parametrize(
    "stored", [None, [], {}, {**to_json(Criteria()), "resamples": 1e12}, {**to_json(Criteria()), "confidence": "high"},
               {**to_json(Criteria()), "margin": math.nan}, {**to_json(Criteria()), "min_pairs": True}]
)  # fmt: skip
def test_what_is_no_rule_is_refused(stored):
    with pytest.raises(UsageError):
        from_json(stored)
    assert from_json(to_json(Criteria(min_pairs=12))) == Criteria(min_pairs=12)


def test_claims_json_has_a_row_a_claim_baseline_and_protocol(tmp_path):
    rows = json.loads(write_claims(evaluate(sweep(lambda *_: 0.0)), tmp_path / "claims.json").read_text())
    for row in rows:
        assert list(row) == [
            "tier", "task", "claim", "baseline", "protocol", "estimate", "ci_low", "ci_high", "n", "verdict",
            "diverged", "pairs", "p", "p_holm", "placebo", "placebo_low", "placebo_high", "edge", "edge_baseline",
            "why",
        ]  # fmt: skip
    of_paper = {
        ("score", "grpo"), ("kl_local", "grpo"), ("kl_local", "reinforce"),
        ("kl_global", "reinforce"), ("entropy", "grpo"), ("entropy", "reinforce"),
    }  # fmt: skip
    ours = {(claim, baseline) for claim in ("score_per_kl", "score_at_kl") for baseline in ("grpo", "reinforce")}
    found = {
        protocol: {(row["claim"], row["baseline"]) for row in rows if row["protocol"] == protocol}
        for protocol in ("same_settings", "frontier")
    }
    assert found == {"same_settings": of_paper, "frontier": of_paper | ours}
    assert len(rows) == 6 + 10


# ----------------------------------------------------------------------------------- what a verdict has beside it


def test_p_values_agree_with_intervals_and_are_adjusted_over_all_rows():
    generator = np.random.default_rng(3)
    for shift in (0.0, 0.05, 0.2):
        values = list(shift + 0.1 * generator.normal(size=10))
        found = estimate(values, Criteria())
        assert (p_value(values) < 0.05) == (found.low > 0 or found.high < 0)
    (tier,) = evaluate(comparison(effect=0.1, generator=generator))
    judged = [result for result in tier.results if result.p is not None]
    assert [result.p_holm for result in judged] == holm([result.p for result in judged])
    assert len(judged) == 6
    assert result_of(comparison(effect=0.1, seeds=4)).p is None


def test_fewer_than_five_pairs_have_no_interval_and_are_said_to_be_too_few():
    criteria = Criteria(min_pairs=2)
    found = result_of(comparison(effect=100.0, seeds=4, criteria=criteria))
    assert (found.ci_low, found.verdict, found.why) == (None, "inconclusive", "not enough seeds (4 of 5)")
    assert result_of(comparison(effect=100.0, seeds=5, criteria=criteria)).verdict == "holds"
    assert result_of(comparison(effect=100.0, seeds=9)).why == "not enough seeds (9 of 10)"


def test_what_was_not_measured_is_said_and_the_other_part_is_shown():
    """A score was measured once, so there is no equal score, but entropy at the same step."""
    scores = [None, None, None, 0.5]
    runs = [
        made_up(PATH, method, seed, score=scores, entropy=2.0 + (method == "proma") + 0.01 * seed)
        for seed, method in itertools.product(range(10), METHODS)
    ]
    found = result_of(runs, "entropy", "grpo")
    assert (found.n, found.pairs, found.estimate) == (10, 10, pytest.approx(1.0))
    assert (found.verdict, found.why) == ("inconclusive", "not measured at equal score")
    assert result_of(runs, "kl_local").why == ""
    unmeasured = [made_up(PATH, method, seed, kl_local=[None] * 4) for seed in range(10) for method in METHODS]
    found = result_of(unmeasured)
    assert (found.n, found.pairs, found.estimate) == (0, 10, None)
    assert (figures(found), found.why) == ("not measured", "not measured at the same step")
    assert figures(result_of([run for run in unmeasured if run.config["method"] != "grpo"])) == "no pairs"


def test_with_two_measured_scores_entropy_is_read_between_them():
    scores, entropy = [None, 0.2, None, None, 0.8], [3.0, 2.8, 2.6, 2.4, 2.2]
    runs = []
    for seed, method in itertools.product(range(10), METHODS):
        higher = [value + (method == "proma") for value in entropy]
        runs.append(made_up(PATH, method, seed, score=scores, entropy=higher))
    found = result_of(runs, "entropy", "grpo")
    assert (found.n, found.estimate, found.verdict) == (10, pytest.approx(1.0), "holds")


def test_a_method_is_not_better_than_itself_at_half_the_learning_rates():
    """Local KL follows from the rate alone. PROMA is GRPO at half the rates, and each has its own luck."""
    generator = np.random.default_rng(0)
    runs = []
    for rate, seed, method in itertools.product((0.1, 0.2, 0.4), range(10), METHODS):
        speed = rate * (0.5 if method == "proma" else 1.0) * np.exp(0.005 * generator.normal())
        score = 1 - np.exp(-10 * speed * np.linspace(0.1, 1, 30))
        runs.append(made_up(PATH, method, seed, rate, score=list(score), kl_local=[speed**2] * 30))
    found = result_of(runs, protocol="frontier")
    assert found.ci_high < 0 and found.placebo_high < 0
    assert (found.verdict, found.why) == ("inconclusive", "no further from zero than the placebo")
    assert found.edge > 0.5 and found.edge_baseline > 0.5


def test_a_difference_larger_than_the_placebo_holds():
    runs = sweep(lambda method, rate: rate + (0.1 if method == "proma" else 0.5))
    found = result_of(runs, protocol="frontier")
    assert (found.verdict, found.placebo) == ("holds", pytest.approx(-0.1))
    smaller = sweep(lambda method, rate: rate + (0.1 if method == "proma" else 0.15))
    assert result_of(smaller, protocol="frontier").verdict == "inconclusive"


def test_a_final_score_at_the_best_rate_pays_for_the_choice():
    """The interval is as wide as the number of pairs of rates asks for."""
    generator = np.random.default_rng(1)
    runs = [
        made_up(PATH, method, seed, rate, score=float(generator.normal()))
        for rate, seed, method in itertools.product((0.1, 0.2), range(10), METHODS)
    ]
    found = result_of(runs, "score", protocol="frontier")
    single = result_of([run for run in runs if run.config["learning_rate"] == 0.1], "score")
    assert found.ci_high - found.ci_low > 1.1 * (single.ci_high - single.ci_low)


def test_the_final_score_is_compared_at_equal_local_kl():
    """The same score at twice the KL: with KL as the others have it, PROMA would be lower by what its line says."""
    runs = []
    for rate, seed, method in itertools.product((1, 2, 4, 8), range(10), METHODS):
        kl = 0.01 * rate * (2 if method == "proma" else 1)
        runs.append(made_up(PATH, method, seed, rate, score=math.log2(rate) / 10, kl_local=kl))
    found = result_of(runs, "score_at_kl", protocol="frontier")
    assert found.estimate == pytest.approx(-0.1)
    assert (found.verdict, found.placebo) == ("fails", pytest.approx(0.0))


def test_the_page_says_what_stands_beside_a_verdict():
    found = result_of(sweep(lambda method, rate: rate + (0.1 if method == "proma" else 0.5)), protocol="frontier")
    assert details(found)[0].startswith("p < 0.0001, Holm ")
    assert details(found)[1] == "placebo -0.1 [-0.1, -0.1]"
    assert details(found)[2].startswith("at the sweep's edge ")
