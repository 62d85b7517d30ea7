"""The rehearsal of the GPU day: every part on a CPU in small sizes, and a driver that no part can stop."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_day
from benchmarks.gpu_day import Part, day, machine_of, parts
from benchmarks.gpu_parts import FULL, PARTS, SMALL, Day

ABOUT = machine_of("cpu", True, ["--small"])


@pytest.mark.parametrize("name", PARTS)
def test_a_part(name: str) -> None:
    found = PARTS[name](Day(torch.device("cpu"), SMALL))
    assert found
    json.dumps(found)


def test_precision_is_that_of_the_types() -> None:
    found = PARTS["precision"](Day(torch.device("cpu"), SMALL))
    for name, error in found.items():
        assert error < (1e-4 if "float32" in name else 0.1), name
        assert error > (0 if "float32" in name else 1e-4), name


def test_a_bare_machine_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch, transformers and jaxtyping alone: the other packages cannot be imported, in the day's processes too."""
    missing = (
        "reasoning_gym pyarrow tyro rich pytest pytest_benchmark gymnasium sklearn scipy matplotlib beartype".split()
    )
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({missing}))\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    out = tmp_path / "out"
    out.mkdir()
    chosen = [part for part in parts("cpu", small=True) if part.name == "llm"]
    [outcome] = day(chosen, 5, out, ABOUT)
    assert outcome.trouble is None, outcome.trouble
    assert outcome.found["step 2"]["tokens"] > 0
    stored = json.loads((out / "llm.json").read_text())
    assert stored["found"] == outcome.found and stored["versions"]["torch"] == torch.__version__


def test_no_part_can_stop_the_others(tmp_path: Path) -> None:
    todo = [
        Part("breaks", ["-c", "raise ValueError('because')"], 60),
        Part("hangs", ["-c", "import time; time.sleep(600)"], 1),
        Part("works", ["-c", "print('said'); print('{\"error\": 1.25}')"], 60),
    ]
    started = time.monotonic()
    breaks, hangs, works = day(todo, 5, tmp_path, ABOUT)
    assert time.monotonic() - started < 60
    assert breaks.trouble is not None
    assert breaks.trouble.startswith("exit status 1; ValueError: because\nTraceback")
    assert hangs.trouble is not None and hangs.trouble.startswith("stopped after 1 s")
    assert works.found == {"error": 1.25}
    text = (tmp_path / "report.md").read_text()
    assert "| works | error | 1.25 |" in text
    assert "| hangs | not done | stopped after 1 s |" in text
    assert {path.name for path in tmp_path.iterdir()} == {"breaks.json", "hangs.json", "works.json", "report.md"}


def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    [outcome] = day([Part("late", ["-c", "print(1)"], 60)], 0, tmp_path, ABOUT)
    assert outcome.trouble == "no time was left"


def test_the_day_of_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The tests and the full size belong to it; without a GPU it says what there is instead."""
    names = [part.name for part in parts("cuda", small=False)]
    assert set(names) == {*PARTS, "tests", "full-size"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_day.main([])
    assert "--device cpu --small is a rehearsal" in capsys.readouterr().err


def test_the_full_sizes_are_those_of_qwen3() -> None:
    config: dict[str, Any] = FULL.model
    assert config["num_hidden_layers"] == 28 and config["vocab_size"] == 151_936
