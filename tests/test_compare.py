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


def test_what_is_beyond_both_placebos_is_marked(tmp_path, capsys):
    base = stored(tmp_path / "base", a=1.0, b=2.0, c=1.5, d=1.0, gone=1.0)
    head = stored(tmp_path / "head", a=1.2, b=2.3, c=1.3, d=1.2, new=1.0)
    base_again = stored(tmp_path / "base-again", a=1.1, b=2.0, c=1.5, d=1.0, gone=1.0)
    head_again = stored(tmp_path / "head-again", a=1.2, b=2.3, c=1.3, d=1.04, new=1.0)
    assert compare.main([base, head, base_again, head_again]) == 0
    lines = capsys.readouterr().out.splitlines()
    # a: 9 % beyond the nearer run of the base, but two runs of the base differ by 10 %.
    assert lines[2] == "| a, PROMA iterative | 1.05 | 1.20 | 1.10 | 1.00 | 1.14 |"
    assert lines[3] == "| b, PROMA iterative | 2.00 | 2.30 | 1.00 | 1.00 | 1.15 **slower** |"
    assert lines[4] == "| c, PROMA iterative | 1.50 | 1.30 | 1.00 | 1.00 | 0.87 **faster** |"
    assert lines[5] == "| d, PROMA iterative | 1.00 | 1.12 | 1.00 | 0.87 | 1.12 |"  # the head was slow only once
    assert "more than 1.05 times" in lines[7]
    assert lines[9:] == ["Not in all four: gone, PROMA iterative; new, PROMA iterative."]


def test_small_changes_are_never_marked(tmp_path, capsys):
    base, head = stored(tmp_path / "base", a=1.0), stored(tmp_path / "head", a=1.04)
    assert compare.main([base, head, base, head]) == 0
    assert "**" not in capsys.readouterr().out


def test_stored_results_can_be_compared(capsys):
    path = str(ROOT / "benchmarks" / "results" / "cpu-quick.json")
    assert compare.main([path] * 4) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) > 10 and "**" not in printed


def test_other_arguments_are_explained(capsys):
    assert compare.main(["one.json"]) == 2
    assert "HEAD-AGAIN.json" in capsys.readouterr().err
