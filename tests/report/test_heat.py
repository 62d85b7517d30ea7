"""Heat maps: the right numbers in the right places."""

import numpy as np
from made_up_runs import made_up

from proma_bench.report import heat


def runs_of(tmp_path, *values, metric="effective_rank_by_layer"):
    """One run for each list of objects by layer."""
    made = []
    for seed, steps in enumerate(values):
        run = made_up(tmp_path / str(seed), "observe", seed, reward=[0.5] * len(steps))
        for step, layers in zip(run.metrics, steps, strict=True):
            step[metric] = layers
        made.append(run)
    return made


def shown(figure):
    return [axes.get_images()[0].get_array() for axes in figure.axes if axes.get_images()]


def test_a_cell_is_the_median_of_the_seeds_that_have_it(tmp_path):
    runs = runs_of(
        tmp_path,
        [{"layer.10": 1.0, "layer.2": 5.0}, {"layer.10": 2.0}],
        [{"layer.10": 3.0, "layer.2": 7.0}, None],
        [{"layer.10": 100.0, "layer.2": None}, {}],
    )
    figure = heat.by_layer("bandit", runs, heat.OBSERVED)
    (found,) = shown(figure)
    np.testing.assert_allclose(np.ma.filled(found, np.nan), [[6.0, np.nan], [3.0, 2.0]])
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["layer.2", "layer.10"]
    assert "median of 3 seeds" in figure.axes[0].get_title()


def test_there_is_one_map_for_each_metric_that_was_recorded(tmp_path):
    runs = runs_of(tmp_path, [{"a": 1.0}, {"a": 2.0}])
    for step in runs[0].metrics:
        step["noise_scale_by_layer"] = {"a": 1e6}
    assert len(shown(heat.by_layer("bandit", runs, heat.OBSERVED))) == 2
    assert heat.by_layer("bandit", runs, heat.REMOVED) is None


def test_a_huge_noise_scale_leaves_the_colours_to_the_others(tmp_path):
    values = [{"a": float(value)} for value in [*range(2, 21), 1e9]]
    runs = runs_of(tmp_path, values, metric="noise_scale_by_layer")
    figure = heat.by_layer("bandit", runs, heat.OBSERVED)
    assert figure.axes[0].get_images()[0].get_clim()[1] < 21


def test_a_signal_that_is_lost_is_a_noise_scale_without_limit(tmp_path):
    """Not one that is left out: the median of 1, 2 and two lost signals is no number."""
    values = [[{"a": 1.0}], [{"a": 2.0}], [{"a": None}], [{"a": None}], [{"a": 3.0}]]
    runs = runs_of(tmp_path, *values, metric="noise_scale_by_layer")
    (found,) = shown(heat.by_layer("bandit", runs, heat.OBSERVED))
    assert float(found[0, 0]) == 3.0
    (lost,) = shown(heat.by_layer("bandit", runs[:4], heat.OBSERVED))
    assert np.ma.getmaskarray(lost)[0, 0] or np.isnan(lost[0, 0])
