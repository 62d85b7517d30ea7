"""The tables of docs/findings.md, computed a second time from the stored runs by code that shares nothing with docs/.

How closely is said in `test_published_verdicts`.
"""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from recomputed.cells import wrong_cells
from recomputed.page import between, shown, table
from recomputed.runs import stored

from docs import findings

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = (ROOT / "docs" / "findings.md").read_text()
MEASURES = {"sampled score": "score_sampled", "greedy score": "score", "entropy": "entropy"}
TITLES = {
    "REINFORCE": "reinforce", "GRPO": "grpo", "PROMA": "proma", "PROMA, clamp 1": "proma 1.0",
    "PROMA, no clamp": "proma None", "ISOPO": "isopo", "shrinking": "shrink", "projected elsewhere": "elsewhere",
}  # fmt: skip
TIERS = {
    "bandit": "initial_states", "bandit-one-batch": "initial_states", "transformer": "prompts",
    "transformer-starts": "prompts", "acrobot": "initial_states",
}  # fmt: skip
OF_EPISODES = {"return, last ten steps": "reward", "greedy return": "score", "entropy": "entropy"}


def measures(tier):
    """The headings of what is compared, and its metrics."""
    return OF_EPISODES if tier == "acrobot" else MEASURES


def arm(config):
    """A method, with its clamp where that is not the default."""
    clamp = config["max_removed"]
    return config["method"] if clamp == 0.5 else f"{config['method']} {clamp}"


def runs_of(tier):
    """Stored runs by the number of microbatches, arm and seed."""
    found = {}
    for line in stored(RESULTS / "grid" / f"{tier}.jsonl.gz"):
        config = line["config"]
        sequences = config[TIERS[tier]] * config["group_size"] // config["steps_per_batch"]
        of_count = found.setdefault(sequences // config["microbatch_size"], {})
        of_count.setdefault(arm(config), {})[config["seed"]] = line
    return found


def last(line, metric):
    return np.mean(line["metrics"][metric][-10 if metric == "reward" else -1 :])


def minus(mine, other, metric):
    return np.array([last(mine[seed], metric) - last(other[seed], metric) for seed in sorted(mine)])


def rows_of(marker, count=None):
    rows = table(between(PAGE, marker), "")
    return [row for row in rows if count is None or row["microbatches"] == str(count)]


@pytest.mark.parametrize("tier", TIERS)
def test_differences_from_reinforce_are_recomputed(tier):
    for count, arms in runs_of(tier).items():
        rows = {TITLES[row["method"].strip("*")]: row for row in rows_of(f"grid: {tier}", count)}
        assert rows.keys() == arms.keys()
        for heading, metric in measures(tier).items():
            own = np.mean([last(line, metric) for line in arms["reinforce"].values()])
            assert shown(rows["reinforce"][heading], own, own)
            values = {name: minus(arms[name], arms["reinforce"], metric) for name in rows if name != "reinforce"}
            assert wrong_cells({name: row[heading] for name, row in rows.items()}, values) == []
        for name, row in rows.items():
            kl = np.mean([np.mean(line["metrics"]["kl_local"]) for line in arms[name].values()])
            assert float(row["mean local KL"]) == pytest.approx(kl, rel=0.06)
            assert row["n"] == str(len(arms[name]))
            assert {f"{line['config']['learning_rate']:g}" for line in arms[name].values()} == {row["rate"]}


@pytest.mark.parametrize("tier", TIERS)
def test_proma_minus_others_is_recomputed(tier):
    rows = {
        (int(row["microbatches"]), TITLES[row["difference"].removeprefix("PROMA minus ")]): row
        for row in rows_of(f"ours: {tier}")
    }
    found = runs_of(tier)
    others = {"grpo", "elsewhere"}
    assert rows.keys() == {(count, name) for count, arms in found.items() for name in others & arms.keys()}
    for heading, metric in measures(tier).items():
        values = {(count, name): minus(found[count]["proma"], found[count][name], metric) for count, name in rows}
        assert wrong_cells({name: row[heading] for name, row in rows.items()}, values) == []


@pytest.mark.parametrize(("tier", "fewest"), [("bandit", 4), ("bandit-one-batch", 4), ("transformer-starts", 16)])
def test_growth_is_recomputed(tier, fewest):
    by_count = runs_of(tier)
    few, many = by_count[fewest], by_count[64]
    rows = {
        TITLES[row["method"]]: row["growth of the difference in sampled score"] for row in rows_of(f"growth: {tier}")
    }
    assert rows.keys() == few.keys() - {"reinforce"}
    values = {
        name: minus(many[name], many["reinforce"], "score_sampled")
        - minus(few[name], few["reinforce"], "score_sampled")
        for name in rows
    }
    assert wrong_cells(rows, values) == []


COLUMNS = {
    "greedy score at the end": "score", "sampled score at the end": "score_sampled", "local KL steps' mean": "kl_local",
    "global KL at the end": "kl_global", "entropy at the end": "entropy", "clamp active steps' mean": "clamped",
}  # fmt: skip


@pytest.mark.parametrize(("tier", "variants"), [("bandit", 23), ("transformer", 5)])
def test_one_setting_at_a_time_is_recomputed(tier, variants):
    by_folder = {}
    for line in stored(RESULTS / "ablations" / f"{tier}.jsonl.gz"):
        by_folder.setdefault(line["path"].partition("/")[0], []).append(line["metrics"])
    rows = {re.sub(r"[^a-z0-9.]+", "-", row["variant"].lower()): row
            for row in table(between(PAGE, f"ablations: {tier}"), "")}  # fmt: skip
    assert rows.keys() == by_folder.keys() and len(rows) == variants
    for folder, row in rows.items():
        for heading, metric in COLUMNS.items():
            series = [one[metric] for one in by_folder[folder] if metric in one]
            if not series:
                assert row[heading] == "-"
                continue
            values = [np.mean(one) if "mean" in heading else one[-1] for one in series]
            mean, error = np.mean(values), scipy.stats.sem(values)
            reach = scipy.stats.t.ppf(0.975, len(values) - 1) * error
            unit = 10.0 ** -len(row[heading].partition(" ")[0].partition(".")[2])
            found = [float(number) for number in re.findall(r"[\d.]+", row[heading])]
            assert found == pytest.approx([mean, mean - reach, mean + reach], abs=0.51 * unit), (folder, heading)
            assert len(values) == 10


def test_long_runs_are_recomputed():
    arms = {}
    for line in stored(RESULTS / "long" / "bandit.jsonl.gz"):
        arms.setdefault(line["config"]["method"], {})[line["config"]["seed"]] = line
    rows = {row["rate"] + row["mean local KL"]: row for row in table(between(PAGE, "long"), "")}
    found = {}
    for name, seeds in arms.items():
        (rate,) = {f"{line['config']['learning_rate']:g}" for line in seeds.values()}
        kl = np.mean([np.mean(line["metrics"]["kl_local"]) for line in seeds.values()])
        found[name] = rows[f"{rate}{kl:.2g}"]
        assert found[name]["n"] == str(len(seeds)) == "10"
    for heading, metric in MEASURES.items():
        values = {name: minus(arms[name], arms["reinforce"], metric) for name in arms if name != "reinforce"}
        assert wrong_cells({name: row[heading] for name, row in found.items()}, values) == []


def test_rates_were_searched_on_other_seeds():
    for tier in TIERS:
        plan = json.loads((RESULTS / "grid" / f"{tier}-search.json").read_text())
        for count, arms in runs_of(tier).items():
            known = plan[str(count)]
            default = next(line["config"]["learning_rate"] for line in arms["reinforce"].values())
            target = known["reinforce"][f"{default}"]
            for seeds in arms.values():
                assert min(seeds) >= 10
            for name, rates in known.items():
                judged = {"proma, clamp 1": "proma 1.0", "proma, no clamp": "proma None"}.get(name, name)
                nearest = min(rates, key=lambda rate: abs(rates[rate] - target))
                if judged in arms and judged != "reinforce":
                    (rate,) = {line["config"]["learning_rate"] for line in arms[judged].values()}
                    assert rate == float(nearest) and math.isclose(rates[nearest], target, rel_tol=0.05)


def test_the_means_of_warm_starts_are_recomputed():
    found = runs_of("transformer-starts")
    rows = rows_of("starts: transformer-starts")
    assert len(rows) == 4
    for row in rows:
        arms = found[int(row["microbatches"])]
        mine, other = arms[TITLES[row["method"]]], arms["reinforce"]
        for start in range(3):
            seeds = [seed for seed in mine if seed % 3 == start]
            mean = np.mean([last(mine[seed], "score_sampled") - last(other[seed], "score_sampled") for seed in seeds])
            assert row[f"warm start {start}"] == f"{mean:+.3f} (n {len(seeds)})"


def test_failed_runs_are_counted_again():
    (arms,) = runs_of("acrobot").values()
    failed = {
        name: {seed for seed, line in runs.items() if last(line, "reward") <= -499} for name, runs in arms.items()
    }
    rows = {TITLES[row["method"]]: row for row in rows_of("failed")}
    assert rows.keys() == arms.keys()
    for name, row in rows.items():
        batches = {seed: np.array(arms[name][seed]["metrics"]["reward"]).reshape(-1, 2).mean(axis=1)
                   for seed in failed[name]}  # fmt: skip
        assert row["failed runs"] == f"{len(failed[name])} of {len(arms[name])}"
        assert row["never learned"] == str(sum(of_run.max() <= -450 for of_run in batches.values()))
    del rows["reinforce"]
    for name, row in rows.items():
        mine, other = len(failed[name] - failed["reinforce"]), len(failed["reinforce"] - failed[name])
        assert (row["failed with it alone"], row["with REINFORCE alone"]) == (str(mine), str(other))
        tail = scipy.stats.binom.cdf(min(mine, other), mine + other, 0.5)
        assert row["p"] == f"{min(1.0, 2 * tail):.2g}"


def test_seeds_take_the_warm_starts_in_turn():
    runs = [line["config"] for line in stored(RESULTS / "grid" / "transformer-starts.jsonl.gz")]
    assert runs and all(config["warm_start_seed"] == config["seed"] % 3 for config in runs)


def test_the_page_is_up_to_date():
    assert findings.main(["--check"]) == 0, "python -m docs.findings writes it anew"


def test_a_changed_run_is_noticed():
    arms = runs_of("bandit")[64]
    arms["proma"][10]["metrics"]["score_sampled"][-1] += 0.3
    rows = {TITLES[row["method"].strip("*")]: row for row in rows_of("grid: bandit", 64)}
    values = {name: minus(arms[name], arms["reinforce"], "score_sampled") for name in rows if name != "reinforce"}
    assert wrong_cells({name: row["sampled score"] for name, row in rows.items()}, values)
