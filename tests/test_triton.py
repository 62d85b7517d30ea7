"""Kernels compile for a GPU that is not there; that they compute what torch does is tested where they belong."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed; `tox -e triton` installs it", allow_module_level=True)

SCRIPT = Path(__file__).parent / "helpers" / "ahead_of_time.py"


@pytest.mark.parametrize(
    ("kernel", "arithmetic"),
    [
        ("iterative", "float64"),
        ("exact", "float64"),
        ("products", "tensor cores"),
        ("many products", "tensor cores"),
    ],
)
def test_it_compiles_for_an_h100(kernel: str, arithmetic: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, str(SCRIPT), kernel]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == arithmetic
