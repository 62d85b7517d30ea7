"""Rates of equal local KL, found on a method whose KL is known."""

import math

import pytest
from made_up_runs import made_up

from proma_bench.runs.matching import TOLERANCE, matched_rate, mean_local_kl, next_rate


def search(kl_of, rates, target, tries=4):
    known = {rate: kl_of(rate) for rate in rates}
    while tries and (rate := next_rate(known, target)) is not None:
        known[rate], tries = kl_of(rate), tries - 1
    return known


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_the_kl_of_a_power_of_the_rate_is_matched_at_once(power):
    known = search(lambda rate: 7 * rate**power, [0.001, 0.1], 7 * 0.02**power, tries=1)
    assert matched_rate(known, 7 * 0.02**power) == pytest.approx(0.02, rel=1e-3)


def test_a_crooked_one_is_matched_in_four_tries():
    def kl_of(rate):
        return rate**2 / (1 + 100 * rate) + 0.3 * rate**3

    for target in (kl_of(0.004), kl_of(0.03), kl_of(0.07)):
        known = search(kl_of, [0.002, 0.08], target)
        rate = matched_rate(known, target)
        assert abs(known[rate] - target) <= TOLERANCE * target


def test_nothing_is_tried_where_the_target_is_matched_or_not_enclosed():
    assert next_rate({0.1: 1.0, 0.2: 4.0}, 1.04) is None
    assert next_rate({0.1: 1.0, 0.2: 4.0}, 5.0) is None
    assert next_rate({0.1: 1.0, 0.2: 4.0}, 0.5) is None
    assert next_rate({}, 1.0) is None
    assert next_rate({0.1: 0.0, 0.2: 4.0}, 1.0) is None  # a method that does not move


def test_of_several_places_the_lowest_is_tried():
    assert 0.1 < next_rate({0.1: 1.0, 0.2: 4.0, 0.4: 1.0}, 2.0) < 0.2


def test_the_nearest_rate_within_the_tolerance_is_the_matched_one():
    assert matched_rate({0.1: 0.97, 0.2: 1.04, 0.3: 1.01}, 1.0) == 0.3
    assert matched_rate({0.1: 0.94, 0.2: 1.06}, 1.0) is None
    assert matched_rate({0.1: math.nan}, 1.0) is None


def test_the_mean_is_over_the_steps_of_each_run_and_over_runs(tmp_path):
    runs = [made_up(tmp_path, kl_local=[1.0, 3.0]), made_up(tmp_path, kl_local=[5.0, None, 7.0])]
    assert mean_local_kl(runs) == 4.0
    assert math.isnan(mean_local_kl([*runs, made_up(tmp_path, kl_local=[None, None])]))
