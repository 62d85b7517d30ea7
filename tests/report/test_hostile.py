"""Reports on directories that Hypothesis has filled: whatever is in them, no traceback, no warning, valid JSON."""

import json
import sys
import tempfile
import warnings
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_up_runs import made_up, store

from proma_bench.cli import main
from proma_bench.runs.criteria import Criteria, to_json

LARGEST, SMALLEST = sys.float_info.max, 5e-324
EXTREME = [0, 1, -1, True, LARGEST, -LARGEST, 1e308, 1e100, -1e100, SMALLEST, -SMALLEST, 1e-310, 3.4e38, 1e16]
EXTREME += [2**63, 2**64, 10**300, 10**400]
FEW = settings(max_examples=settings().max_examples // 25)  # each draws figures

numbers = st.sampled_from(EXTREME) | st.floats() | st.integers() | st.none()
names = st.text(max_size=8) | st.sampled_from(["[/x]", "\x1b[2J", "\udcff", "a" * 5000, "$\\bad$", "<script>"])
values = st.recursive(
    numbers | names, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=9
)
criteria = st.fixed_dictionaries(
    {},
    optional={
        "margin": st.sampled_from([0.0, SMALLEST, LARGEST]),
        "min_pairs": st.sampled_from([1, 100_000]),
        "confidence": st.sampled_from([0.5, 1 - 2**-53]),
        "smoothing": st.sampled_from([1, 100_000]),
        "levels": st.sampled_from([1, 2]),
        "resamples": st.sampled_from([1, 1000]),
        "score": st.sampled_from(["score", "score_sampled"]),
        "learning_rate": st.sampled_from([None, 0.1, 0, SMALLEST, LARGEST]),
    },
)
curves = st.sampled_from(["score", "score_sampled", "entropy", "kl_local", "kl_global", "clamped", "seconds"])
runs = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["proma", "proma", "grpo", "reinforce", "[/x]"]),
        "seed": st.sampled_from([0, 1, 2, 2**64, 10**400, 10**4000]),
        "learning_rate": st.sampled_from([0.1, 0.1, 0.2, 1, True, SMALLEST, 1e-310, LARGEST, 10**300, 10**400]),
        "steps": st.sampled_from([4, 4, 4, 5, 2**63, 10**4000]),
        "curves": st.dictionaries(curves, st.lists(numbers, min_size=4, max_size=4), max_size=4),
        "layers": st.none() | st.dictionaries(names, numbers, max_size=3),
        "criteria": criteria,
        "config": st.dictionaries(
            st.sampled_from("versions resumed extended criteria hidden title tier format".split()) | names,
            values,
            max_size=2,
        ),
    }
)


def write(path, run):
    made = made_up(path, run["method"], run["seed"], run["learning_rate"], **run["curves"])
    settings_of_criteria = {**to_json(Criteria(resamples=100)), **run["criteria"]}
    made.config.update({"steps": run["steps"], "criteria": settings_of_criteria, **run["config"]})
    for step in made.metrics:
        step["removed_by_layer"] = run["layers"]
    store(made)


def pair(**changes):
    """A run of PROMA and one of a baseline, both with these changes."""
    plain = {"seed": 0, "learning_rate": 0.1, "steps": 4, "curves": {}, "layers": None, "criteria": {}, "config": {}}
    return [{**plain, "method": method, **changes} for method in ("proma", "grpo")]


@FEW
@example(pair(curves={"kl_local": [LARGEST] * 4, "score": [1e308, -1e308, 0, 0]}))
@example(pair(curves={"kl_local": [1e100, -1e100] * 2, "score": [-1e100, 0, 1e100, 1]}, layers={"a": 1e100, "b": -1}))
@example(pair(curves={"kl_local": [SMALLEST] * 4, "score": [0, SMALLEST, 1e-310, 1]}, seed=10**4000))
@example(pair(learning_rate=SMALLEST, layers={"a": SMALLEST}) + pair(learning_rate=LARGEST))
@given(st.lists(runs, min_size=1, max_size=4))
def test_no_run_can_make_a_report_fail(found):
    def no_constant(name):
        raise AssertionError(f"claims.json has {name}")

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        root = Path(folder, "root")
        store(made_up(root / "sound", seed=7))
        for number, run in enumerate(found):
            write(root / str(number), run)
        assert main(["report", str(root)]) == 0
        json.loads((root / "claims.json").read_text(), parse_constant=no_constant)
        assert "Traceback" not in (root / "report.html").read_text()


def test_a_config_that_is_nested_as_deep_as_the_stack_is_one_line(tmp_path, capsys):
    for depth in (30, 300, 900, 950, 990, 5000):
        made = store(made_up(tmp_path / str(depth), seed=depth))
        text = (made.path / "config.json").read_text().rstrip().removesuffix("}")
        (made.path / "config.json").write_text(f'{text}, "hidden": {"[" * depth}{"]" * depth}}}')
    store(made_up(tmp_path / "sound"))
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("config.json: nested too deeply") == 6


def test_a_layer_for_each_of_thousands_of_names_is_drawn_in_time(tmp_path):
    made = made_up(tmp_path / "run")
    for step in made.metrics:
        step["removed_by_layer"] = {f"layer.{number}": 0.1 for number in range(5_000)}
    store(made)
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
