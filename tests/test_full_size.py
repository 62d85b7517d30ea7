"""The real model's size, with random weights. `pytest -m slow` selects it: a minute or two, and 12 GiB of memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_steps_of_proma_on_qwen3_fit_into_twelve_gigabytes():
    """Two microbatches in bfloat16, in a process of its own, for the peak is the process's."""
    command = [sys.executable, "-m", "benchmarks.full_size"]
    result = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["peak_gib"] < 12
    assert found["grad_norm"] > 0 and 0 < found["removed_ratio"] < 1
    assert 0 < found["kl_local"] < 1 and 0 <= found["kl_global"] < 1
