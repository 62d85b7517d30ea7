"""The table of the stand-in in docs/llm.md, computed a second time by code that shares nothing with docs/."""

import json
from pathlib import Path

import numpy as np
from recomputed.cells import wrong_cells
from recomputed.page import between, shown, table

from docs import stand_in

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "llm.md").read_text()
TITLES = {"reinforce": "REINFORCE", "grpo": "GRPO", "proma": "PROMA"}
ENDS = {"greedy score": "score", "sampled score": "score_sampled", "global KL": "kl_global", "entropy": "entropy"}


def measured(method):
    """Each measure of the page as one number for each seed, and the seeds."""
    found, seeds = {name: [] for name in (*ENDS, "mean local KL")}, []
    for run in sorted((ROOT / "benchmarks" / "results" / "llm" / method).iterdir()):
        steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert len(steps) == 40
        for name, metric in ENDS.items():
            found[name].append(steps[-1][metric])
        found["mean local KL"].append(sum(step["kl_local"] for step in steps) / 40)
        seeds.append(json.loads((run / "config.json").read_text())["seed"])
    return {name: np.array(values) for name, values in found.items()}, seeds


def test_the_table_is_recomputed():
    runs = {method: measured(method) for method in TITLES}
    (seeds,) = {tuple(of_method) for _, of_method in runs.values()}
    rows = {row["method"]: row for row in table(between(PAGE, "stand-in"), "")}
    assert len(rows) == 6 and {row["n"] for row in rows.values()} == {str(len(seeds))}
    for heading in (*ENDS, "mean local KL"):
        values = {title: runs[method][0][heading] for method, title in TITLES.items()}
        for title, one in values.items():
            assert shown(rows[title][heading], one.mean(), one.mean()), (title, heading)
        pairs = [name.split(" minus ") for name in rows if " minus " in name]
        differences = {" minus ".join(pair): values[pair[0]] - values[pair[1]] for pair in pairs}
        assert wrong_cells({name: row[heading] for name, row in rows.items()}, differences) == []


def test_all_runs_have_the_same_settings():
    kept = ["model", "task", "task_options", "learning_rate", "steps", "prompts", "few_shot", "dtype", "warmup_steps"]
    configs = [
        json.loads(path.read_text()) for path in (ROOT / "benchmarks" / "results" / "llm").glob("*/*/config.json")
    ]
    assert len({json.dumps([config[name] for name in kept]) for config in configs}) == 1


def test_the_page_is_up_to_date():
    assert stand_in.main(["--check"]) == 0, "python -m docs.stand_in writes it anew"
