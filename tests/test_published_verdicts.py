"""Every published verdict, computed a second time from the stored runs by code that shares nothing with the report.

What is compared, and how closely:

- verdict and reason: exactly. Only where the end of an interval is so near to the border that the simulation behind its
  factor cannot tell the side, either one is right.
- the estimate, and that of the placebo: to the rounding of the stored metrics (five digits).
- ends of intervals and p-values: likewise, and to four standard errors of the difference of two simulations (half a
  million samples here, a million numbers there); all ends are by one factor for each level.
- Holm: from the published p-values to nine digits, from our own within the bounds that the above leaves.
- numbers on a page: to half a unit of the last digit that is shown.
"""

import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from recomputed.leaderboard import along_the_sweep, best, matched, mean_kl, placebo
from recomputed.measures import CLAIMS, last
from recomputed.page import between, interval_shown, methods, numbers, shown, table
from recomputed.runs import BASELINE, Runs, stored
from recomputed.statistics import SIGMAS, holm, interval, p_value
from recomputed.verdicts import bounded, claim_row, holm_bounds, rounding

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FILES = {path.name.removesuffix(".jsonl.gz"): path for path in sorted((RESULTS / "leaderboard").glob("*.jsonl.gz"))}
PUBLISHED = json.loads((RESULTS / "claims" / "quick.json").read_text())
PAGE = (ROOT / "docs" / "leaderboard.md").read_text()
CLAIMS_PAGE = (ROOT / "docs" / "claims.md").read_text()

ACTIONS = {"bandit": 10, "gym-CartPole-v1": 2}
SCORES = {"bandit": (0.0, 1.0), "gym-CartPole-v1": (1.0, 500.0)}
FIVE_DIGITS = 5e-5
"""Half a unit of the fifth digit, as a share of the number."""
VERDICTS = {"✓": "holds", "✗": "fails", "?": "inconclusive"}
ALONG = {
    "score at equal cumulative local KL": "score_per_kl",
    "local KL at equal score": "kl_local",
    "entropy at equal score": "entropy",
}
KEYS = set(
    "tier task claim baseline protocol estimate ci_low ci_high n verdict diverged pairs p p_holm".split()
    + "placebo placebo_low placebo_high edge edge_baseline why".split()
)

each_file = pytest.mark.parametrize("name", FILES)


@functools.cache
def lines(name):
    return stored(FILES[name])


@functools.cache
def runs(name):
    return Runs(lines(name))


def name_of(row):
    """The file of a row's tier."""
    return "-".join(filter(None, (row["tier"], row["task"])))


# ---------------------------------------------------------------------------------------------- what there is


def test_every_tier_with_published_rows_has_its_runs():
    # The one place that fails while a tier's file is missing; from then on its rows are compared as well.
    assert {name_of(row) for row in PUBLISHED} == set(FILES)


@each_file
def test_every_row_of_the_claims_is_there(name):
    expected = [
        (claim, baseline, protocol)
        for claim, record in CLAIMS.items()
        for baseline in record.baselines
        for protocol in ("same_settings", "frontier")[not record.same_settings :]
    ]
    rows = [row for row in PUBLISHED if name_of(row) == name]
    assert [(row["claim"], row["baseline"], row["protocol"]) for row in rows] == expected
    assert all(row.keys() == KEYS for row in rows)


# ---------------------------------------------------------------------------------------------- the stored runs


def faults(name, found):
    """What is wrong with stored runs: a line for each."""
    wrong = []
    seeds, rewards = {}, {}
    own = {"method", "seed", "learning_rate"}
    shared = {key: value for key, value in found[0]["config"].items() if key not in own}
    for line in found:
        path, config, metrics = line["path"], line["config"], line["metrics"]
        values = {key: np.array(column, dtype=float) for key, column in metrics.items()}
        method, rate, seed = config["method"], config["learning_rate"], config["seed"]
        seeds.setdefault((method, rate), []).append(seed)
        rewards.setdefault(seed, set()).add(metrics["reward"][0])
        checks = {
            "path": path.split("/")[-3:] == [method, f"lr-{rate:g}", f"seed-{seed}"],
            "settings": {key: value for key, value in config.items() if key not in own} == shared,
            "title": config["title"].replace("/", "-") == name,
            "lengths": {len(column) for column in metrics.values()} == {len(metrics["step"])},
            "steps": metrics["step"] == list(range(1, len(metrics["step"]) + 1)),
            "end": line["diverged"] is not None or len(metrics["step"]) == config["steps"],
            "no number": not any(_is_wrong(value) for column in metrics.values() for value in column),
            "validated": _measured(values["score"]) == _validated(config, len(metrics["step"])),
            "every step": all(
                not np.isnan(values[key]).any() for key in ("reward", "kl_local", "kl_global", "entropy")
            ),
            "kl_local": values["kl_local"].min() >= -1e-6,
            "kl_global": values["kl_global"].min() >= -1e-6,
            "entropy": 0 <= values["entropy"].min() <= values["entropy"].max() <= _most(math.log(ACTIONS[name])),
            **{key: _within(values[key], SCORES[name]) for key in ("score", "score_sampled") if key in values},
        }
        wrong += [f"{path}: {what}" for what, is_right in checks.items() if not is_right]
    wrong += [f"{key}: seeds {sorted(of)}" for key, of in seeds.items() if sorted(of) != list(range(10))]
    wrong += [f"seed {seed}: methods began from different rewards" for seed, of in rewards.items() if len(of) > 1]
    return wrong


def _is_wrong(value):
    return value is not None and not math.isfinite(value)


def _measured(values):
    return (np.flatnonzero(~np.isnan(values)) + 1).tolist()


def _validated(config, steps):
    every = config["validate_every"]
    return [step for step in range(1, steps + 1) if step % every == 0 or step == config["steps"]]


def _most(value):
    return value * (1 + FIVE_DIGITS)


def _within(values, limits):
    return np.nanmin(values) >= limits[0] and np.nanmax(values) <= limits[1]


@each_file
def test_stored_runs_are_sound(name):
    assert faults(name, lines(name)) == []


# ---------------------------------------------------------------------------------------------- claims.json


def near(published, found, tolerance):
    if published is None:
        return math.isnan(found)
    return abs(published - found) <= tolerance


def interval_differs(published, found, tolerance):
    """Estimate, low and high end of a row that are not as they should be."""
    wrong = [] if near(published[0], found.centre, tolerance) else [("estimate", published[0], found.centre)]
    for side, end in zip((-1, +1), published[1:], strict=True):
        simulated = abs(found.end(side, SIGMAS) - found.end(side, -SIGMAS)) / 2 if end is not None else 0.0
        if not near(end, found.end(side), 2 * tolerance + simulated):
            wrong.append((f"end {side:+}", end, found.end(side)))
    return wrong


def p_differs(published, bounds):
    _, low, high = bounds
    is_right = math.isnan(low) if published is None else 0.99 * low <= published <= 1.01 * high
    return [] if is_right else [("p", published, bounds)]


@functools.cache
def judged(of_tier, *key):
    """Our own row, and how many pairs it has."""
    return claim_row(of_tier, *key)


def key_of(row):
    return row["claim"], row["baseline"], row["protocol"]


def row_differs(row, of_tier):
    """What in a row of claims.json is not as it should be: (what, published, found)."""
    found, pairs = judged(of_tier, *key_of(row))
    tolerance = rounding(of_tier, row["claim"], row["baseline"])
    wrong = interval_differs([row[key] for key in ("estimate", "ci_low", "ci_high")], found.found, tolerance)
    wrong += p_differs(row["p"], found.p)
    if (row["verdict"], row["why"]) not in found.said:
        wrong.append(("verdict", (row["verdict"], row["why"]), found.said))
    if {key: row[key] for key in pairs} != pairs or row["n"] != found.found.n:
        wrong.append(("pairs", row, pairs))
    beside = [row[key] for key in ("placebo", "placebo_low", "placebo_high")]
    if found.placebo is None:
        wrong += [("placebo", beside, None)] if beside != [None] * 3 else []
    else:
        wrong += [("placebo", *rest) for rest in interval_differs(beside, found.placebo, tolerance)]
    edges = tuple(row[key] for key in ("edge", "edge_baseline") if row[key] is not None)
    if not np.array_equal(np.round(edges, 9), np.round(found.edges or (), 9)):
        wrong.append(("edges", edges, found.edges))
    return wrong


def claims_differ(name, of_tier):
    """Of all rows of a tier: which, and what is not as it should be."""
    rows = [row for row in PUBLISHED if name_of(row) == name]
    return [(*key_of(row), *wrong) for row in rows for wrong in row_differs(row, of_tier)]


@each_file
def test_claims_are_recomputed(name):
    assert claims_differ(name, runs(name)) == []


def factors(name, of_tier):
    """By number of pairs and level: between which numbers the factor of each published interval is."""
    found = {}
    for row in PUBLISHED:
        if name_of(row) == name and row["ci_high"] is not None:
            mine, slack = judged(of_tier, *key_of(row))[0].found, 4 * rounding(of_tier, row["claim"], row["baseline"])
            half = row["ci_high"] - row["estimate"]
            bounds = ((half - slack) / mine.error, (half + slack) / mine.error)
            found.setdefault((mine.n, mine.level), []).append(bounds)
    return found


@each_file
def test_standard_errors_are_right_as_all_intervals_have_one_factor(name):
    for bounds in factors(name, runs(name)).values():
        lows, highs = zip(*bounds, strict=True)
        assert max(lows) <= min(highs)


def test_claims_of_the_llm_tier_are_recomputed():
    of_tier = Runs(_unpacked(path) for path in sorted((RESULTS / "llm").glob("*/seed-*")))
    rows = json.loads((RESULTS / "claims" / "llm.json").read_text())
    assert len(rows) == 6
    assert [(*key_of(row), *wrong) for row in rows for wrong in row_differs(row, of_tier)] == []


def _unpacked(path):
    """A run's directory as one of the stored lines."""
    steps = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    metrics = {name: [step[name] for step in steps] for name in ("score", "kl_local", "kl_global", "entropy")}
    return {"config": json.loads((path / "config.json").read_text()), "metrics": metrics, "diverged": None}


def test_published_levels_are_adjusted_for_all_rows_of_both_tiers():
    known = [row for row in PUBLISHED if row["p"] is not None]
    assert np.allclose([row["p_holm"] for row in known], holm([row["p"] for row in known]), rtol=1e-9, atol=0)
    assert all(row["p_holm"] is None for row in PUBLISHED if row["p"] is None)


def test_our_own_levels_give_the_same_adjusted_ones():
    known = [row for row in PUBLISHED if row["p"] is not None]
    bounds = [
        judged(runs(name_of(row)), *key_of(row))[0].p if name_of(row) in FILES else (row["p"],) * 3 for row in known
    ]
    adjusted = holm_bounds(bounds)
    wrong = [(row, p) for row, p in zip(known, adjusted, strict=True) if p_differs(row["p_holm"], p)]
    assert wrong == []


# ---------------------------------------------------------------------------------------------- docs/claims.md


def cell_of(row):
    """A row of claims.json as the page should show it."""
    symbol = next(symbol for symbol, verdict in VERDICTS.items() if verdict == row["verdict"])
    lines = [f"{symbol} {row['verdict']}, n {row['n']}" + (f", {row['diverged']} diverged" if row["diverged"] else "")]
    lines.append(_spread(row, "estimate", "ci_low", "ci_high"))
    if row["p"] is not None:
        lines.append(f"p {_level(row['p'])}, Holm {_level(row['p_holm'])}")
    if row["placebo"] is not None:
        lines.append(f"placebo {_spread(row, 'placebo', 'placebo_low', 'placebo_high')}")
    if row["edge"] is not None:
        lines.append(f"at the sweep's edge {row['edge']:.0%}, {row['edge_baseline']:.0%}")
    return "<br>".join(lines + [row["why"]] * bool(row["why"]))


def _spread(row, centre, low, high):
    estimate, *ends = (None if row[name] is None else _signed(row[name]) for name in (centre, low, high))
    return estimate + ("" if None in ends else f" [{', '.join(ends)}]")


def _signed(value):
    return f"{value:+.2g}" if abs(value) < 99.5 else f"{value:+.0f}"


def _level(p):
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


STATEMENTS = {
    "score": "final validation score is not lower than with",
    "kl_local": "local KL is lower than with",
    "kl_global": "global KL is lower than with",
    "entropy": "entropy stays higher than with",
    "score_per_kl": "score at equal cumulative local KL is higher than with",
    "score_at_kl": "final score at equal mean local KL is higher than with",
}


def test_the_page_of_claims_shows_these_rows():
    rows = PUBLISHED + json.loads((RESULTS / "claims" / "llm.json").read_text())
    expected = {}
    for row in rows:
        tier = "/".join(filter(None, (row["tier"], row["task"])))
        statement = f"{STATEMENTS[row['claim']]} {row['baseline'].upper()}"
        expected[statement, f"{tier}, {row['protocol'].replace('_', ' ')}"] = cell_of(row)
    shown_rows = table(between(CLAIMS_PAGE, "claims: all"), "")
    found = {(row["with PROMA, ..."], heading): cell for row in shown_rows for heading, cell in row.items() if cell}
    assert {key: cell for key, cell in found.items() if key[1] != "with PROMA, ..."} == expected


# ---------------------------------------------------------------------------------------------- docs/leaderboard.md


def cell_is_right(cell, found, adjusted):
    """A cell such as: ✓ +0.14 [+0.1, +0.17]<br>Holm 0.0009<br>reason."""
    if found is None or not found.found.n:
        return cell == "–"
    if cell == "–":
        return False
    first, *rest = cell.split("<br>")
    level = rest.pop(0) if rest and rest[0].startswith("Holm") else None
    why = rest[0] if rest else ""
    if adjusted is None or math.isnan(adjusted[0]):
        level_is_right = level is None
    elif level == "Holm < 0.0001":
        level_is_right = adjusted[1] < 1e-4
    else:
        level_is_right = level is not None and shown(
            f"+{level.removeprefix('Holm ')}", 0.99 * adjusted[1], 1.01 * adjusted[2]
        )
    return (VERDICTS[first[0]], why) in found.said and interval_shown(first[1:], found.found) and level_is_right


def adjusted(rows):
    """Holm's bounds by method, of those that have a level."""
    known = {method: row.p for method, row in rows.items() if row is not None and not math.isnan(row.p[0])}
    return dict(zip(known, holm_bounds(list(known.values())), strict=True)) if known else {}


def expected_columns(of_tier):
    """By heading of the second table: each method's row, and its adjusted levels."""
    at_equal_kl = matched(of_tier)
    columns = {
        heading: {method: one.scores[metric] for method, one in at_equal_kl.items()}
        for heading, metric in {"final score there": "score", "final sampled score there": "score_sampled"}.items()
        if any(one.scores[metric].found.n for one in at_equal_kl.values())
    }
    columns["PROMA minus this method, final score there"] = {
        method: one.below_ours for method, one in at_equal_kl.items()
    }
    columns = columns if at_equal_kl.keys() - {BASELINE} else {}
    columns |= {heading: along_the_sweep(of_tier, claim) for heading, claim in ALONG.items()}
    return at_equal_kl, {heading: (found, adjusted(found)) for heading, found in columns.items()}


def board_differs(page, name, of_tier):
    """Cells of the second table that are not as they should be: (method, heading, cell, found)."""
    rows = table(between(page, f"leaderboard: {name}"), "Each method minus REINFORCE")
    names = methods(page)
    at_equal_kl, columns = expected_columns(of_tier)
    *rows, bottom = rows or [{}]
    if [names.get(row["method"]) for row in rows] != _placed(names, of_tier, but=BASELINE):
        return [("methods", name, [row["method"] for row in rows], list(names))]
    wrong = []
    if rows[0].keys() - {"rate of equal mean local KL"} != {"method", *columns}:
        wrong.append(("headings", name, list(rows[0]), list(columns)))
    for row in rows:
        method = names[row["method"]]
        rate, there = row.get("rate of equal mean local KL", "–"), at_equal_kl.get(method)
        if not _rate_is_right(rate, there):
            wrong.append((method, "rate", rate, there))
        for heading, (found, levels) in columns.items():
            if not cell_is_right(row[heading], found.get(method), levels.get(method)):
                wrong.append((method, heading, row[heading], found.get(method), levels.get(method)))
    for heading, claim in ALONG.items():
        own = placebo(of_tier, claim)
        if not (interval_shown(bottom[heading], own) if own.n else bottom[heading] == "–"):
            wrong.append(("placebo", heading, bottom[heading], placebo(of_tier, claim)))
    return wrong


def _placed(names, of_tier, but=None):
    """The methods of a table, in the order of the cards."""
    sweep = of_tier.rates_of_the_sweep()
    return [one for one in names.values() if one != but and any(of_tier.ended.get(one, {}).get(rate) for rate in sweep)]


def _rate_is_right(cell, there):
    return cell == ("–" if there is None else f"{there.rate:g}<br>KL {there.kl_local:.2g}")


@each_file
def test_the_second_table_of_the_leaderboard_is_recomputed(name):
    assert board_differs(PAGE, name, runs(name)) == []


def best_differs(page, name, of_tier):
    """Cells of the first table that are not as they should be."""
    rows, names, wrong = table(between(page, f"leaderboard: {name}"), "Each method at its best"), methods(page), []
    if [names.get(row["method"]) for row in rows] != _placed(names, of_tier):
        return [("methods", name, [row["method"] for row in rows], list(names))]
    for row in rows:
        mine = best(of_tier, names[row["method"]])
        size = f"n {mine.n}" + (f", {mine.diverged} diverged" if mine.diverged else "")
        if row["learning rate"] != f"{mine.rate:g}{'*' if mine.at_edge else ''}<br>{size}":
            wrong.append((row["method"], row["learning rate"], mine))
        if row.keys() != {"method", "learning rate", *mine.means}:
            wrong.append((row["method"], "headings", list(row), list(mine.means)))
        for heading, values in mine.means.items():
            cell = numbers(row[heading])
            if len(cell) != 3 or not all(shown(text, value, value) for text, value in zip(cell, values, strict=True)):
                wrong.append((row["method"], heading, row[heading], values))
    return wrong


@each_file
def test_the_first_table_of_the_leaderboard_is_recomputed(name):
    assert best_differs(PAGE, name, runs(name)) == []


@each_file
def test_observe_is_reinforce(name):
    """So it has no rows."""
    of_tier = runs(name)
    assert of_tier.observed
    for (rate, seed), run in of_tier.observed.items():
        same = of_tier.ended[BASELINE][rate][seed]["score"]
        assert abs(np.mean(run["score"] - same)) < 1e-3 * np.mean(same)  # rounding may turn a greedy action


# ---------------------------------------------------------------------------------------------- thirty new seeds


def confirmation_differs(rows, found, names):
    """Cells of the table of the confirmation that are not as they should be."""
    at = {name: next(iter(rates.values())) for name, rates in found.ended.items() if len(rates) == 1}
    wrong = (
        [] if {*map(len, at.values())} == {30} and all([*of] == [*range(10, 40)] for of in at.values()) else ["seeds"]
    )
    wrong += [] if {names[row["PROMA minus ..."]] for row in rows} == at.keys() - {"proma"} else ["methods"]
    for heading, metric in {"final score": "score", "final sampled score": "score_sampled"}.items():
        finals = {name: np.array([last(run[metric]) for run in seeds.values()]) for name, seeds in at.items()}
        values = {name: finals["proma"] - finals[name] for name in finals if name != "proma"}
        levels = holm_bounds([bounded(p_value(one), len(one)) for one in values.values()])
        for (name, one), level in zip(values.items(), levels, strict=True):
            (row,) = (row for row in rows if names[row["PROMA minus ..."]] == name)
            difference, _, adjusted_p = row[heading].partition("<br>Holm ")
            is_right = interval_shown(difference, interval(one, 0.95)) and shown(f"+{adjusted_p}", *level[1:])
            if not is_right or row["n"] != str(len(one)):
                wrong.append((name, heading, row, interval(one, 0.95), level))
    kl = {name: f"{mean_kl(seeds):.4f}" for name, seeds in at.items()}
    (heading,) = (heading for heading in rows[0] if "mean local KL" in heading)
    wrong += [] if heading == f"its mean local KL ({kl['proma']} with PROMA)" else [heading]
    return wrong + [row for row in rows if row[heading] != kl[names[row["PROMA minus ..."]]]]


def test_the_table_of_thirty_new_seeds_is_recomputed():
    found = Runs(stored(RESULTS / "confirmation" / "bandit.jsonl.gz"))
    assert confirmation_differs(table(between(PAGE, "confirmation"), ""), found, methods(PAGE)) == []


# --------------------------------------------------------------------------------------------- whether all this notices


def changed(name, change):
    """The tier's runs of three methods after a change of their lines, which are looked up by method, rate and seed."""
    kept = [line for line in lines(name) if line["config"]["method"] in ("proma", "grpo", "reinforce")]
    copies = json.loads(json.dumps(kept))
    change({tuple(line["config"][key] for key in ("method", "learning_rate", "seed")): line for line in copies})
    return copies


def _a_score(lines):
    lines["proma", 0.005, 3]["metrics"]["score"][-1] += 0.01


def _a_kl(lines):
    lines["proma", 0.005, 3]["metrics"]["kl_local"][30] *= 2


def _pairs(lines):
    one, other = lines["proma", 0.005, 0], lines["proma", 0.005, 1]
    one["metrics"], other["metrics"] = other["metrics"], one["metrics"]


def _sides(lines):
    for (method, _, _), line in lines.items():
        line["config"]["method"] = {"proma": "reinforce", "reinforce": "proma"}.get(method, method)


@pytest.mark.parametrize("change", [_a_score, _a_kl, _pairs, _sides])
def test_changed_runs_give_other_verdicts(change):
    assert claims_differ("bandit", Runs(changed("bandit", change)))


def _below_zero(lines):
    lines["grpo", 0.01, 0]["metrics"]["kl_local"][5] = -1e-4


def _above_uniform(lines):
    lines["grpo", 0.01, 0]["metrics"]["entropy"][0] = 2.304


def _no_number(lines):
    lines["grpo", 0.01, 0]["metrics"]["reward"][5] = math.nan


def _another_seed(lines):
    lines["grpo", 0.01, 0]["config"]["seed"] = 10


def _shorter(lines):
    for column in lines["grpo", 0.01, 0]["metrics"].values():
        del column[-1]


@pytest.mark.parametrize("change", [_below_zero, _above_uniform, _no_number, _another_seed, _shorter])
def test_unsound_runs_are_found(change):
    assert not faults("bandit", changed("bandit", lambda lines: None))
    assert faults("bandit", changed("bandit", change))
