"""The measuring instruments themselves, and the pages made from what they measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import report
from benchmarks.memory import peak_bytes
from benchmarks.published import check_no_gross_regression, published_ratios
from benchmarks.test_projection_cost import fitted_exponent
from benchmarks.timing import interleaved

CPU = torch.device("cpu")


def test_interleaved_ratios() -> None:
    result = interleaved({"short": lambda: sum(range(10**5)), "long": lambda: sum(range(10**6))}, 5, baseline="short")
    assert result["short"].ratio == 1.0
    assert result["long"].ratio_q1 <= result["long"].ratio <= result["long"].ratio_q3
    assert result["long"].ratio > 1.5


def test_short_calls_are_repeated() -> None:
    calls = []
    result = interleaved({"short": lambda: calls.append(1)}, rounds=2, baseline="short")
    assert len(calls) > 100
    assert result["short"].seconds < 1e-3


def test_peak_memory_is_exact() -> None:
    def two_then_one() -> None:
        first, second = torch.empty(1000), torch.empty(500)
        del first, second
        torch.empty(1200)

    assert peak_bytes(two_then_one, CPU) == 1500 * 4


def test_fitted_exponent() -> None:
    assert fitted_exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2.0)


def stored(folder: Path, ratio: float, date: str = "2026-01-01") -> None:
    info = {"case": "backward: x", "suite": "backward", "form": "quick", "device": "cpu", "baseline": "plain autograd"}
    timing = {"seconds": 0.1, "ratio": ratio, "ratio_q1": ratio, "ratio_q3": ratio}
    names = ("plain autograd", "PROMA iterative", "PROMA exact")
    info |= {"contenders": dict.fromkeys(names, timing), "layer": True, "ways": {"weight": "rows"}}
    machine = {"versions": {"torch": "2"}, "threads": 1, "device_name": "a CPU", "dtype": "float32", "python": "3"}
    content = {
        "datetime": date,
        "form": "quick",
        "command": "python -m pytest benchmarks",
        "machine_info": machine,
        "commit_info": {"id": "0123456789abcdef"},
        "benchmarks": [{"extra_info": info}, {"extra_info": {}}],
    }
    (folder / f"{date}.json").write_text(json.dumps(content))


def test_the_gate(tmp_path: Path) -> None:
    stored(tmp_path, 3.0, "2026-01-01")
    stored(tmp_path, 1.2, "2026-01-02")  # the newer one counts
    published = published_ratios("cpu", tmp_path)
    assert published["backward: x"]["PROMA exact"] == 1.2
    assert published_ratios("cuda", tmp_path) == {}

    def measured(ratio: float) -> dict[str, object]:
        return {"backward: x": {"baseline": "plain autograd", "contenders": {"PROMA exact": {"ratio": ratio}}}}

    check_no_gross_regression("backward: x", measured(1.79), published)
    with pytest.raises(AssertionError, match=r"1\.81 times plain autograd; published 1\.20, allowed 1\.80"):
        check_no_gross_regression("backward: x", measured(1.81), published)
    with pytest.raises(pytest.skip.Exception, match="not measured"):
        check_no_gross_regression("backward: y", measured(1.0), published)
    with pytest.raises(pytest.skip.Exception, match="no ratio is published"):
        check_no_gross_regression("backward: x", measured(1.0), {})


def test_the_report(tmp_path: Path) -> None:
    page, readme = tmp_path / "page.md", tmp_path / "README.md"
    page.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    readme.write_text("no markers\n")
    said = report.write(report.load(tmp_path), page, readme, tmp_path / "plots")
    assert said[0] == report.NOTHING
    assert report.NOTHING in page.read_text()
    assert "README.md has no" in said[-1]

    readme.write_text("<!-- performance table --><!-- /performance table -->")
    stored(tmp_path, 1.25)
    report.write(report.load(tmp_path), page, readme, tmp_path / "plots")
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| x | 100 | 1.25 [1.25, 1.25] | 1.25 [1.25, 1.25] |" in text
    assert "(plots/cpu-overhead.png)" in text
    assert (tmp_path / "plots" / "cpu-overhead.png").exists()
    assert "a CPU, 1 thread, float32" in readme.read_text()
