"""One place for each extension: the files of examples/plugins add to the package, from outside of it.

Each is run in processes of its own, as what they register would stay. Workers of the ladder load them, too.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = ROOT / "examples" / "plugins"


def run(command, *plugins):
    """Run Python in an environment that names these plug-ins; returns its output."""
    environment = {**os.environ, "PROMA_BENCH_PLUGINS": ",".join(str(PLUGINS / f"{name}.py") for name in plugins)}
    result = subprocess.run(
        [sys.executable, "-W", "error", *command], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """The smoke ladder of the bandit and of a tier from outside, with a method, a projection, a metric and a claim."""
    root = tmp_path_factory.mktemp("ladder")
    command = f"-m proma_bench ladder --tiers bandit,parity --budget smoke --seeds 1 --jobs 2 --out {root}".split()
    return root, run(command, "ranks", "parity", "reverse_kl", "jacobi")


def test_a_method_with_its_own_advantages(ladder):
    root, printed = ladder
    runs = list(root.glob("bandit/rank-grpo/*/seed-0/summary.json"))
    assert len(runs) == 2 and "rank-grpo" in printed
    program = "from proma_bench.learning.methods import METHODS; from proma_bench.plugins import load_plugins\n"
    program += "import torch; load_plugins(); method = METHODS['rank-grpo']\n"
    program += "print(method.advantages_function(torch.tensor([0., 1., 5., 5.]), 2).tolist())"
    assert run(["-c", program], "ranks").strip() == "[-0.5, 0.5, 0.0, 0.0]"


def test_a_tier(ladder):
    root, printed = ladder
    config = json.loads((root / "parity" / "proma" / "lr-0.005" / "seed-0" / "config.json").read_text())
    assert (config["tier"], config["title"], config["initial_states"]) == ("parity", "parity", 64)
    assert "parity, 4 steps" in printed
    claims = json.loads((root / "claims.json").read_text())
    assert {(row["tier"], row["task"]) for row in claims} == {("bandit", None), ("parity", None)}
    with pytest.raises(AssertionError, match="unknown tier 'parity'"):
        run(["-m", "proma_bench", "run", "parity"])


def test_a_metric(ladder):
    root, printed = ladder
    steps = (root / "bandit" / "grpo" / "lr-0.005" / "seed-0" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["kl_reverse"] > 0 for line in steps)
    assert "reverse local KL" in printed and "unknown metric" not in printed


def test_a_claim(ladder):
    root, printed = ladder
    found = [row for row in json.loads((root / "claims.json").read_text()) if row["claim"] == "kl_reverse"]
    assert {row["baseline"] for row in found} == {"grpo", "reinforce"}
    assert (
        all(row["n"] == 1 for row in found if row["protocol"] == "same_settings")
        and "reverse local KL is lower" in printed
    )


def test_a_projection_method(tmp_path):
    """With many sweeps it becomes the exact projection."""
    options = f"--steps 2 --projection jacobi --sweeps 4 --out {tmp_path}".split()
    run(["-m", "proma_bench", "run", "bandit", *options], "jacobi")
    assert json.loads((tmp_path / "config.json").read_text())["projection"] == "jacobi"
    program = "from proma_bench import project; from proma_bench.plugins import load_plugins; import torch\n"
    program += "load_plugins(); A, S = torch.randn(9), torch.randn(3, 9); A, S = A.double(), S.double()\n"
    program += "near = project(A, S, method='jacobi', sweeps=500)\n"
    program += "torch.testing.assert_close(near, project(A, S), atol=1e-6, rtol=0)\n"
    program += "from proma_bench.experiments.ablation import variants; assert 'jacobi' in variants()"
    run(["-c", program], "jacobi")


def test_a_layer_kind():
    """Compared with the literal accumulation; and a wrong rule is noticed in its first backward pass."""
    program = """
import torch
from torch import nn
from proma_bench import Proma, ProjectionConfig, accumulate
from proma_bench.plugins import load_plugins

load_plugins()
from scale_layer import Scale

policy = nn.Sequential(nn.Linear(4, 6), Scale(6), nn.Linear(6, 3)).double()
config, factor, running = ProjectionConfig("exact", max_removed=None), policy[1].factor, None
with Proma(policy, config) as proma:
    for _ in range(2):
        x, advantages = torch.randn(5, 4).double(), torch.randn(5).double()
        rows = torch.stack([torch.autograd.grad(-policy(x)[i, 0], factor)[0] for i in range(5)])
        running = accumulate(running, rows, advantages, config)
        proma.backward(policy(x)[:, 0], advantages)
torch.testing.assert_close(factor.grad, running)
"""
    run(["-c", program], "scale_layer")


def test_a_plug_in_that_is_missing_or_broken_is_one_line(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for path, reason in ((tmp_path / "no.py", "there is no file"), (tmp_path / "broken.py", "division by zero")):
        environment = {**os.environ, "PROMA_BENCH_PLUGINS": str(path)}
        command = [sys.executable, "-m", "proma_bench", "report", str(tmp_path)]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert result.returncode == 2 and result.stderr.count("\n") == 1
        assert result.stderr.startswith(f"proma-bench: cannot import the plug-in {path}") and reason in result.stderr
