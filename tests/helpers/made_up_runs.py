"""Runs whose truth is known, in memory or as they would lie on disk."""

import dataclasses
import json

from proma_bench.runs.criteria import Criteria, to_json
from proma_bench.runs.directory import FORMAT, Run, write_json

FAST = Criteria(resamples=1000)


def made_up(path, method="proma", seed=0, learning_rate=0.1, criteria=FAST, tier="bandit", **curves):
    """A finished run with the given curves (all of one length; a single number is a constant)."""
    steps = max((len(curve) for curve in curves.values() if isinstance(curve, list)), default=4)
    constants = {name: [curve] * steps for name, curve in curves.items() if not isinstance(curve, list)}
    names = ("reward", "score", "entropy", "kl_local", "kl_global")
    table = {**{name: [0.5] * steps for name in names}, **curves, **constants}
    metrics = [{"step": step + 1, **{name: curve[step] for name, curve in table.items()}} for step in range(steps)]
    config = {
        "format": FORMAT,
        "tier": tier.split("/")[0],
        "title": tier,
        "method": method,
        "seed": seed,
        "learning_rate": learning_rate,
        "steps": steps,
    }
    if criteria is not None:
        config["criteria"] = to_json(criteria)
    return Run(path, config, metrics, finished=True)


def store(run):
    """Write the run to its path and return it."""
    run.path.mkdir(parents=True)
    write_json(run.path / "config.json", run.config)
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in run.metrics))
    if run.finished:
        write_json(run.path / "summary.json", {})
    if run.diverged is not None:
        write_json(run.path / "diverged.json", dataclasses.asdict(run.diverged))
    return run
