"""Runs read off along a score, on curves with a known answer."""

import numpy as np
import pytest

from proma_bench.report.curves import KL_SPENT, between_measurements, moving_mean
from proma_bench.report.frontier import OUTER, Frontier, Trajectory, common_levels, differences, frontiers
from proma_bench.runs.criteria import Criteria

NAN = np.nan


def trajectory(score, values, smoothing=1):
    return Trajectory(np.array(score, dtype=float), np.array(values, dtype=float), smoothing)


def of_one_seed(*rates, names=("score", "entropy")):
    """Curves of one seed: for each rate a pair of score and metric."""
    both = np.array(rates, dtype=float)
    return {name: both[None, :, place] for place, name in enumerate(names)}


def test_a_score_is_reached_between_two_steps():
    found = trajectory([0.0, 0.5, 1.0], [0.0, 1.0, 2.0])
    assert (found.lowest, found.highest) == (0.0, 1.0)
    levels = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.01, -0.01])
    np.testing.assert_allclose(found.at(levels), [0.0, 0.5, 1.0, 1.5, 2.0, NAN, NAN])


def test_steps_out_of_order_are_averaged_in_place_of_the_best_one_being_taken():
    """One lucky step is no score reached: 0.9 and 0.1 are 0.5 together, and so are the metrics there."""
    found = trajectory([0.0, 0.9, 0.1, 1.0], [0.0, 2.0, 4.0, 9.0])
    np.testing.assert_allclose(found.at(np.array([0.25, 0.5, 0.75])), [1.5, 3.0, 6.0])


def test_a_collapse_counts():
    """What a run has lost at its end it has not reached; and what the collapse cost is in what it did reach."""
    up, down = list(np.linspace(0, 1, 11)), list(np.linspace(1, 0.5, 11))
    steady = trajectory(up + [1.0] * 11, [0.1] * 22)
    collapsed = trajectory(up + down, [0.1] * 11 + [5.0] * 11)
    assert (steady.highest, collapsed.highest) == (1.0, 0.5)
    assert steady.at(np.array([0.45])) == pytest.approx(0.1)
    assert np.isnan(collapsed.at(np.array([0.75]))).all()
    recovered = trajectory([*up, 0.2, 1.0], [0.1] * 11 + [5.0, 0.1])
    assert recovered.at(np.array([0.72])) > 0.5


@pytest.mark.parametrize("smoothing", [1, 2, 5, 100])
def test_smoothing_keeps_a_straight_relation_between_score_and_metric(smoothing):
    score = np.sort(np.random.default_rng(0).uniform(size=30))
    found = trajectory(score, 3 - 2 * score, smoothing)
    levels = np.linspace(found.lowest, found.highest, 7)
    np.testing.assert_allclose(found.at(levels), 3 - 2 * levels)


def test_the_moving_mean_is_centred_and_cut_at_the_ends():
    np.testing.assert_allclose(moving_mean(np.array([0.0, 3.0, 6.0, 0.0]), 3), [1.5, 3.0, 3.0, 3.0])
    np.testing.assert_allclose(moving_mean(np.array([1.0, 2.0]), 9), [1.5, 1.5])
    assert moving_mean(np.empty(0), 3).shape == (0,)


def test_a_level_that_is_the_last_score_is_reached():
    """Differences of cumulative sums would round it away."""
    scores = np.array([0.1, 0.2, 0.25, 0.3, 0.6, 0.7, 0.9])
    assert moving_mean(scores, 1).tolist() == scores.tolist()
    assert Trajectory(scores, 2 * scores, smoothing=1).at(np.array([0.1, 0.9])).tolist() == [0.2, 1.8]


def test_smoothing_counts_optimizer_steps_whether_all_or_few_of_them_were_validated():
    """A straight line is the same line, measured at every fifth step; five steps are five steps."""
    score = np.linspace(0, 1, 41)
    sparse = np.where(np.arange(41) % 5 == 0, score, NAN)
    np.testing.assert_allclose(between_measurements(sparse), score)
    entropy = 3 - score**2
    levels = np.linspace(0.2, 0.8, 5)
    np.testing.assert_allclose(
        trajectory(sparse, entropy, 5).at(levels), trajectory(score, entropy, 5).at(levels), atol=1e-12
    )


def test_steps_before_the_first_score_and_after_the_last_are_left_out():
    found = trajectory([NAN, 0.0, NAN, 1.0, NAN], [100.0, 4.0, 3.0, 2.0, 100.0])
    np.testing.assert_allclose(found.at(np.array([0.0, 0.25, 1.0])), [4.0, 3.5, 2.0])
    unmeasured = Frontier([trajectory([NAN, NAN], [1.0, 1.0], 5)], [0])
    assert np.isnan(unmeasured.lowest)
    assert len(common_levels([unmeasured], 5)) == 0
    assert np.isnan(unmeasured.at(np.array([0.5]))[0]).all()


def test_the_difference_at_equal_score_is_taken_over_the_common_range():
    """From 0.2, where the second starts, to 0.6, where the first ends: entropy 3 - s against 1 + s."""
    score, other = np.linspace(0.0, 0.6, 20), np.linspace(0.2, 1.0, 20)
    ours, theirs = of_one_seed([score, 3 - score]), of_one_seed([other, 1 + other])
    found = differences(ours, theirs, "score", "entropy", Criteria(smoothing=1))
    np.testing.assert_allclose(found.values, [2 - 2 * 0.4])
    apart = of_one_seed([[0.0, 0.1], [1.0, 1.0]]), of_one_seed([[0.5, 0.9], [1.0, 1.0]])
    found = differences(*apart, "score", "entropy", Criteria())
    assert np.isnan(found.values).all() and found.edges is None


def test_the_frontier_is_the_lowest_rate_that_reaches_a_score():
    """The slow run ends at 0.5."""
    runs = [trajectory([0.0, end], [value, value]) for end, value in ((0.5, 5.0), (1.0, 1.0), (0.8, 9.0))]
    frontier = Frontier(runs, [0, 1, 2])
    assert (frontier.lowest, frontier.highest) == (0.0, 1.0)
    values, edges = frontier.at(np.array([0.2, 0.5, 0.6, 0.9]))
    np.testing.assert_allclose(values, [5.0, 5.0, 1.0, 1.0])
    assert edges.tolist() == [True, True, False, False]


def test_a_higher_rate_goes_before_a_lower_one_only_if_it_is_better_beyond_doubt():
    """The entropy is higher with the second rate: by far more than noise, by less, and by more with too few seeds."""
    grid = np.linspace(0, 1, 21)
    noise = np.random.default_rng(0).normal(0, 0.1, size=(10, 2, 1))
    for gain, seeds, expected in ((1.0, 10, 1.0), (0.01, 10, 0.0), (1.0, 4, 0.0)):
        entropy = (noise + np.array([[[0.0], [gain]]]) + np.zeros_like(grid))[:seeds]
        curves = {"score": np.broadcast_to(grid, entropy.shape), "entropy": entropy}
        found = np.array([one.at(np.array([0.5]))[0] for one in frontiers(curves, "score", "entropy", Criteria())])
        assert found.mean() == pytest.approx(expected, abs=0.15)


def test_values_at_an_edge_of_the_sweep_are_counted():
    """Ours reaches half of the range with its lowest rate; theirs all of it."""
    grid = np.linspace(0, 1, 101)
    ours = of_one_seed([grid / 2, grid], [grid, grid], [grid, grid])
    theirs = of_one_seed([grid, grid], [grid, grid], [grid, grid])
    levels = np.linspace(OUTER, 1 - OUTER, 20)
    found = differences(ours, theirs, "score", "entropy", Criteria(smoothing=1))
    assert found.edges == (np.mean(levels <= 0.5), 1.0)


def test_a_score_can_be_read_along_the_kl_spent():
    """With a fifth of the KL a step, the same scores: at equal KL spent, ours is five times as far."""
    grid = np.linspace(0, 1, 101)
    ours, theirs = (
        of_one_seed([grid, slow * grid], names=("score", KL_SPENT)) for slow in (0.2, 1.0)
    )  # theirs reaches a score s with KL s, ours with s / 5
    found = differences(ours, theirs, KL_SPENT, "score", Criteria(smoothing=1))
    np.testing.assert_allclose(found.values, [0.1 * 4], atol=1e-9)
