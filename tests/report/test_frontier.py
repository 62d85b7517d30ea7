"""Trajectories read off at a score, on curves with a known answer."""

from pathlib import Path

import numpy as np
import pytest
from made_up_runs import made_up

from proma_bench.report.frontier import Frontier, Trajectory, common_scores, difference_at_equal_score, moving_mean
from proma_bench.runs.criteria import Criteria


def run(score, entropy):
    return made_up(Path("run"), score=list(score), entropy=list(entropy))


def test_a_score_is_reached_between_two_steps_where_the_envelope_first_has_it():
    trajectory = Trajectory(run([0.0, 0.5, 0.2, 1.0], [0.0, 1.0, 9.0, 2.0]), smoothing=1)
    assert (trajectory.lowest, trajectory.highest) == (0.0, 1.0)
    scores = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.01, -0.01])
    np.testing.assert_allclose(trajectory.at("entropy", scores), [0.0, 0.5, 1.0, 5.5, 2.0, np.nan, np.nan])


@pytest.mark.parametrize("smoothing", [1, 2, 5, 100])
def test_smoothing_keeps_a_straight_relation_between_score_and_metric(smoothing):
    score = np.random.default_rng(0).uniform(size=30)
    trajectory = Trajectory(run(score, 3 - 2 * score), smoothing)
    levels = np.linspace(trajectory.lowest, trajectory.highest, 7)[:1]
    np.testing.assert_allclose(trajectory.at("entropy", levels), 3 - 2 * levels)


def test_the_moving_mean_is_centred_and_cut_at_the_ends():
    np.testing.assert_allclose(moving_mean(np.array([0.0, 3.0, 6.0, 0.0]), 3), [1.5, 3.0, 3.0, 3.0])
    np.testing.assert_allclose(moving_mean(np.array([1.0, 2.0]), 9), [1.5, 1.5])
    assert moving_mean(np.empty(0), 3).shape == (0,)


def test_steps_without_a_score_are_left_out():
    trajectory = Trajectory(run([0.0, None, 1.0], [4.0, 100.0, 2.0]), smoothing=1)
    np.testing.assert_allclose(trajectory.at("entropy", np.array([0.5])), [3.0])
    unmeasured = Frontier([run([None, None], [1.0, 1.0])], 5)
    assert len(common_scores([unmeasured], 5)) == 0
    assert np.isnan(unmeasured.at("entropy", np.array([0.5]))).all()


def test_the_difference_at_equal_score_is_taken_over_the_common_range():
    """From 0.2, where the second starts, to 0.6, where the first ends: entropy 3 - s against 1 + s."""
    score, other = np.linspace(0.0, 0.6, 20), np.linspace(0.2, 1.0, 20)
    difference = difference_at_equal_score(
        [run(score, 3 - score)], [run(other, 1 + other)], "entropy", Criteria(smoothing=1)
    )
    assert difference == pytest.approx(2 - 2 * 0.4)
    apart = difference_at_equal_score(
        [run([0.0, 0.1], [1.0, 1.0])], [run([0.5, 0.9], [1.0, 1.0])], "entropy", Criteria()
    )
    assert np.isnan(apart)


def test_a_slow_run_is_on_the_frontier_only_for_the_scores_it_reaches():
    """The slow run has the higher entropy up to 0.5, where it ends."""
    frontier = Frontier([run([0.0, 0.5], [5.0, 5.0]), run([0.0, 1.0], [1.0, 1.0])], 1)
    assert (frontier.lowest, frontier.highest) == (0.0, 1.0)
    np.testing.assert_allclose(frontier.at("entropy", np.array([0.2, 0.5, 0.6])), [5.0, 5.0, 1.0])
