"""The comparison of a pull request with its base."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

from benchmarks import compare  # noqa: E402


def stored(path, **cases):
    """A results file with these ratios of PROMA iterative."""
    benchmarks = [
        {"extra_info": {"case": case, "contenders": {"plain": {"ratio": 1.0}, "PROMA iterative": {"ratio": ratio}}}}
        for case, ratio in cases.items()
    ]
    path.write_text(json.dumps({"benchmarks": [*benchmarks, {"extra_info": {}}]}))
    return str(path)


def test_what_is_beyond_the_placebo_is_marked(tmp_path, capsys):
    base = stored(tmp_path / "base", a=1.0, b=2.0, c=1.5, gone=1.0)
    again = stored(tmp_path / "again", a=1.1, b=2.0, c=1.5, gone=1.0)
    head = stored(tmp_path / "head", a=1.05, b=2.3, c=1.3, new=1.0)
    assert compare.main([base, again, head]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| a, PROMA iterative | 1.00 | 1.05 | 1.10 | 1.05 |"
    assert lines[3] == "| b, PROMA iterative | 2.00 | 2.30 | 1.00 | 1.15 **slower** |"
    assert lines[4] == "| c, PROMA iterative | 1.50 | 1.30 | 1.00 | 0.87 **faster** |"
    assert "more than 1.10 times" in lines[6]
    assert lines[8:] == ["Not in all three: gone, PROMA iterative; new, PROMA iterative."]


def test_small_changes_are_never_marked(tmp_path, capsys):
    base, head = stored(tmp_path / "base", a=1.0), stored(tmp_path / "head", a=1.04)
    assert compare.main([base, base, head]) == 0
    assert "**" not in capsys.readouterr().out


def test_stored_results_can_be_compared(capsys):
    path = str(ROOT / "benchmarks" / "results" / "cpu-quick.json")
    assert compare.main([path, path, path]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 10


def test_other_arguments_are_explained(capsys):
    assert compare.main(["one.json"]) == 2
    assert "BASE-AGAIN.json" in capsys.readouterr().err
