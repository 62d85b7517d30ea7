"""After a ladder, each method at the rate of equal local KL; on the first tier, as small as it gets."""

import pytest
from rich.console import Console

from proma_bench.errors import UsageError
from proma_bench.experiments.ladder import climb, make_plan
from proma_bench.experiments.matching import TRIES, match, require_baseline
from proma_bench.report.judging import evaluate
from proma_bench.report.leaderboard import leaderboard
from proma_bench.report.reading import read_runs
from proma_bench.report.settings import commands
from proma_bench.runs.matching import TOLERANCE, mean_local_kl


def test_methods_run_at_the_rate_where_they_spend_what_reinforce_does(tmp_path):
    plan = make_plan(["bandit"], "smoke", 2, methods=["reinforce", "proma", "gspo"])
    plan.learning_rates["bandit"] = [0.0025, 0.005, 0.02]
    console = Console(quiet=True)
    climb(plan, tmp_path, 1, console)
    assert "--match-kl" not in commands(tmp_path, [])[0]
    swept = set(tmp_path.rglob("metrics.jsonl"))
    match(plan, tmp_path, 1, console)
    added = {path: path.stat().st_mtime_ns for path in set(tmp_path.rglob("metrics.jsonl")) - swept}
    assert 0 < len({path.parent.parent for path in added}) <= 2 * TRIES
    assert not any("reinforce" in path.parts for path in added)

    (tier,) = evaluate(read_runs(tmp_path).runs)
    board = leaderboard(tier)
    assert board.rates == [0.0025, 0.005, 0.02]
    target = mean_local_kl([run for key, run in tier.comparable.runs.items() if key[:2] == ("reinforce", 0.005)])
    assert board.target == target
    assert {"reinforce", "proma"} <= set(board.matched)
    for method, matched in board.matched.items():
        runs = [run for key, run in tier.comparable.runs.items() if key[:2] == (method, matched.learning_rate)]
        assert len(runs) == 2
        assert abs(mean_local_kl(runs) - target) <= TOLERANCE * target

    match(plan, tmp_path, 1, console)  # nothing is repeated, or added
    again = {path: path.stat().st_mtime_ns for path in set(tmp_path.rglob("metrics.jsonl")) - swept}
    assert again == added
    assert "--match-kl" in commands(tmp_path, [])[0]
    climb(plan, tmp_path, 1, console)  # the ladder goes on with its plan, and does not forget it
    assert "--match-kl" in commands(tmp_path, [])[0]


def test_there_must_be_a_baseline():
    with pytest.raises(UsageError, match="--match-kl takes the local KL of reinforce as its target; add it"):
        require_baseline(make_plan(["bandit"], "smoke", 1, methods=["proma"]))
