"""The example of a plain accelerate loop: it learns, and PROMA acts in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "plain_accelerate.py"


def test_the_example_learns_and_removes(tmp_path: Path) -> None:
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-4000:]
    lines = re.findall(r"^step (\d+): reward ([\d.]+), .* ([\d.]+)% removed", run.stdout, flags=re.MULTILINE)
    rewards, removed = zip(*((float(reward), float(share)) for _, reward, share in lines), strict=True)
    assert [int(step) for step, *_ in lines] == [20, 40, 60]
    assert rewards[0] < rewards[-1] and rewards[-1] > 0.9  # by chance it would be 0.25
    assert all(0 < share < 100 for share in removed)
