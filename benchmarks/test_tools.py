"""The measuring instruments themselves, and the pages made from what they measured."""

from __future__ import annotations

import json
import math
import platform
from pathlib import Path

import pytest
import torch

from benchmarks import full_size, report
from benchmarks.grid import _to_try
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


def stored(folder: Path, ratio: float, date: str = "2026-01-01", form: str = "quick") -> None:
    info = {"case": "backward: Linear", "suite": "backward", "form": form, "device": "cpu"}
    timing = {"seconds": 0.1, "ratio": ratio, "ratio_q1": ratio, "ratio_q3": ratio}
    names = ("plain autograd", "PROMA iterative", "PROMA exact")
    info |= {
        "baseline": names[0],
        "contenders": dict.fromkeys(names, timing),
        "layer": True,
        "gram_methods": {"weight": "rows"},
    }
    machine = {"versions": {"torch": "2"}, "threads": 1, "device_name": "a CPU", "dtype": "float32", "python": "3"}
    content = {
        "datetime": date,
        "form": form,
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
    assert published["backward: Linear"]["PROMA exact"] == 1.2
    assert published_ratios("cuda", tmp_path) == {}

    def measured(ratio: float) -> dict[str, object]:
        return {"backward: Linear": {"baseline": "plain autograd", "contenders": {"PROMA exact": {"ratio": ratio}}}}

    check_no_gross_regression("backward: Linear", measured(1.79), published)
    with pytest.raises(AssertionError, match=r"1\.81 times plain autograd; published 1\.20, allowed 1\.80"):
        check_no_gross_regression("backward: Linear", measured(1.81), published)
    with pytest.raises(pytest.skip.Exception, match="not measured"):
        check_no_gross_regression("backward: y", measured(1.0), published)
    with pytest.raises(pytest.skip.Exception, match="no ratio is published"):
        check_no_gross_regression("backward: Linear", measured(1.0), {})


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
    assert "| Linear | 100 | 1.25 [1.25, 1.25] | 1.25 [1.25, 1.25] |" in text
    assert "(plots/cpu-overhead.png)" in text
    assert (tmp_path / "plots" / "cpu-overhead.png").exists()
    assert "a CPU, 1 thread, float32" in readme.read_text()
    assert "| Linear | 100 | 1.25 | 1.25 |" in readme.read_text()


FULL_SIZE = {"peak_gib": 5.678, "make": 12.34, "measure before": 1.234, "update": 45.67, "measure after": 2.345}
FULL_SIZE |= {"kl_local": 1.23e-4, "kl_global": 0.1, "grad_norm": 1.0, "removed_ratio": 0.125, "clamped": 0.875}


def test_the_full_size_is_stored_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(full_size, "steps", lambda tokens, device: FULL_SIZE)
    path = tmp_path / "cpu-full-size.json"
    arguments = ["--tokens", "16", "--json", str(path)]
    full_size.main(arguments)
    full_size.main(arguments)  # the newer measurement replaces the older
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == FULL_SIZE

    [found] = report.load(tmp_path)
    text = report.section(found, tmp_path / "plots", tmp_path)
    assert "#### The full size" in text
    assert "| Qwen3-0.6B, 4 × 32 | 5.68 | 12.3 | 1.23 | 45.7 | 2.35 | 1.2e-04 | 0.12 | 0.88 |" in text
    assert f", bfloat16, Python {platform.python_version()}, torch {torch.__version__}" in text
    assert f"python -m benchmarks.full_size --tokens 16 --json {path}" in text
    assert report.performance_table([found]) == report.NOTHING


def test_the_machine_of_the_performance_table_is_that_of_its_figures(tmp_path: Path) -> None:
    stored(tmp_path, 1.25, form="full")
    newer = full_size.record(FULL_SIZE, 32, torch.device("cpu"), [])  # in bfloat16
    (tmp_path / "newer.json").write_text(json.dumps(newer))
    table = report.performance_table(report.load(tmp_path))
    assert "float32" in table and "bfloat16" not in table


def test_the_full_size_without_a_folder_to_store_it_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(full_size, "steps", lambda tokens, device: pytest.fail("measured for nothing"))
    with pytest.raises(SystemExit):
        full_size.main(["--json", str(tmp_path / "nowhere" / "x.json")])
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("known", "rate"),
    [
        ({0.1: 1.0, 0.2: 2.0}, 0.4),  # all spend less
        ({0.1: 3.0, 0.2: 1.0}, None),  # the runs of the highest rate failed
        ({0.1: 1.0, 0.2: math.nan}, None),  # they diverged
        ({0.1: 1.0, 0.2: 3.9}, None),  # matched
        ({0.1: 1.0, 0.4: 16.0}, 0.2),  # in between
    ],
)
def test_the_search_for_equal_kl_goes_on_above_the_highest_rate(known: dict[float, float], rate: float | None) -> None:
    assert _to_try(known, aimed=4.0) == rate
