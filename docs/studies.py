"""The tables and the figure of docs/findings.md, from stored runs; `docs.findings` writes them."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import json
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import ablations, long
from benchmarks.grid import ARMS, GRIDS, target
from benchmarks.grid import STORED as GRID
from benchmarks.stored_runs import final, final_differences, unpack
from proma_bench.report.against import Compared, adjusted
from proma_bench.report.markdown import markdown_table
from proma_bench.report.matrix import level, spread
from proma_bench.report.plots import style_of
from proma_bench.report.statistics import Array, Cell
from proma_bench.runs.criteria import Criteria
from proma_bench.runs.directory import Run
from proma_bench.runs.matching import BASELINE, mean_local_kl

OURS, OTHERS = "proma", ("grpo", "elsewhere")
MEASURES = {"score_sampled": "sampled score", "score": "greedy score", "entropy": "entropy"}
OF_EPISODES = {"reward": "return, last ten steps", "score": "greedy return", "entropy": "entropy"}
"""Of the gym tier, which has no sampled validation score."""

Arms = dict[str, dict[int, Run]]
"""Runs by the name of the arm and by seed."""


# ------------------------------------------------------------------------------------- microbatches in a step


@functools.cache
def grid(name: str) -> dict[int, Arms]:
    """The judged runs of a tier, by the number of microbatches in a step."""
    found: dict[int, Arms] = collections.defaultdict(lambda: collections.defaultdict(dict))
    for run in unpack(GRID / f"{name}.jsonl.gz"):
        found[_microbatches(run)][_arm(run)][run.config["seed"]] = run
    return {count: dict(found[count]) for count in sorted(found)}


def _microbatches(run: Run) -> int:
    config = run.config
    states = config["initial_states" if "initial_states" in config else "prompts"]
    return int(states * config["group_size"] // config["steps_per_batch"] // config["microbatch_size"])


def _arm(run: Run) -> str:
    """The most specific arm whose settings the run has."""
    fits = [name for name, settings in ARMS.items() if settings.items() <= run.config.items()]
    return max(fits, key=lambda name: len(ARMS[name]))


def measures(arms: Arms) -> dict[str, str]:
    """What is compared, with its heading; the most important one is first."""
    run = next(iter(arms[BASELINE].values()))
    return OF_EPISODES if run.config["tier"] == "gym" else MEASURES


def headings(arms: Arms) -> tuple[str, ...]:
    return "method", "rate", "n", "mean local KL", *measures(arms).values()


def from_baseline(arms: Arms) -> dict[str, dict[str, Compared]]:
    """Each arm minus REINFORCE, by measure and arm, those of the grid in its order first."""
    others = [name for name in dict.fromkeys((*ARMS, *arms)) if name in arms and name != BASELINE]
    return {
        metric: adjusted({name: final_differences(arms[name], arms[BASELINE], metric) for name in others}, Criteria())
        for metric in measures(arms)
    }


def grid_table(name: str) -> str:
    """Each arm with each number of microbatches: what it spent, and its differences from REINFORCE."""
    rows = []
    for count, arms in grid(name).items():
        rows.append((str(count), *_baseline_row(arms)))
        found = from_baseline(arms)
        for arm in found["score"]:
            cells = (cell(of_arm[arm]) for of_arm in found.values())
            rows.append((str(count), title(arm), *_spent(arms[arm]), *cells))
    return markdown_table(("microbatches", *headings(arms)), rows)


def _baseline_row(arms: Arms) -> tuple[str, ...]:
    """REINFORCE's own values."""
    runs = arms[BASELINE].values()
    finals = (shown(np.mean([final(run, metric) for run in runs])) for metric in measures(arms))
    return f"**{title(BASELINE)}**", *_spent(arms[BASELINE]), *finals


def shown(mean: float) -> str:
    """Three digits after the point; two significant ones of a small KL, and one after the point of returns."""
    if abs(mean) >= 10:
        return f"{mean:.1f}"
    return f"{mean:.3f}" if abs(mean) >= 0.01 else f"{mean:.2g}"


def _spent(runs: Mapping[int, Run]) -> tuple[str, str, str]:
    finished = [run for run in runs.values() if run.finished]
    (rate,) = {run.config["learning_rate"] for run in runs.values()}
    return f"{rate:g}", str(len(finished)), f"{mean_local_kl(finished):.2g}"


def from_ours(name: str) -> dict[str, dict[tuple[int, str], Compared]]:
    """PROMA minus each of `OTHERS`, by measure, number of microbatches and arm; Holm for all of a measure."""
    by_count = grid(name)
    pairs = {
        (count, other): (arms[OURS], arms[other])
        for count, arms in by_count.items()
        for other in OTHERS
        if {OURS, other} <= arms.keys()
    }
    return {
        metric: adjusted({pair: final_differences(*runs, metric) for pair, runs in pairs.items()}, Criteria())
        for metric in measures(by_count[max(by_count)])
    }


def ours_table(name: str) -> str:
    """PROMA minus GRPO, and minus the control that projects on mixtures of all sequences."""
    found, arms = from_ours(name), grid(name)
    rows = [
        (str(count), f"PROMA minus {title(other)}", *(cell(of_pair[count, other]) for of_pair in found.values()))
        for count, other in found["score"]
    ]
    return markdown_table(("microbatches", "difference", *measures(arms[max(arms)]).values()), rows)


def growth(name: str) -> dict[str, Compared]:
    """The difference from REINFORCE with most microbatches minus that with fewest, in sampled score, seed by seed."""
    by_count = grid(name)
    few, many = by_count[min(by_count)], by_count[max(by_count)]
    shared = [arm for arm in ARMS if arm != BASELINE and arm in few and arm in many]
    changes = {
        arm: final_differences(many[arm], many[BASELINE], "score_sampled")
        - final_differences(few[arm], few[BASELINE], "score_sampled")
        for arm in shared
    }
    return adjusted(changes, Criteria())


def growth_table(name: str) -> str:
    return markdown_table(("method", "growth of the difference in sampled score"),
                          [(title(arm), cell(found)) for arm, found in growth(name).items()])  # fmt: skip


def starts_table(name: str) -> str:
    """Each arm minus REINFORCE in sampled score, by warm start: means, as three or four seeds share one."""
    starts = range(GRIDS[name].warm_starts)
    rows = []
    for count, arms in grid(name).items():
        for arm in (arm for arm in ARMS if arm in arms and arm != BASELINE):
            of_starts = (final_differences(*(_from_start(arms[one], start) for one in (arm, BASELINE)), "score_sampled")
                         for start in starts)  # fmt: skip
            rows.append((str(count), title(arm), *(f"{np.mean(one):+.3f} (n {len(one)})" for one in of_starts)))
    return markdown_table(("microbatches", "method", *(f"warm start {start}" for start in starts)), rows)


def _from_start(runs: Mapping[int, Run], start: int) -> dict[int, Run]:
    return {seed: run for seed, run in runs.items() if run.config["warm_start_seed"] == start}


def figure() -> Figure:
    """The difference from REINFORCE at equal local KL against the number of microbatches: one panel for each grid."""
    names = [name for name in with_runs() if len(grid(name)) > 1]
    rows = len(names) // 2 + 1
    drawn = Figure(figsize=(8.5, 3.6 * rows), layout="constrained")
    places = list(drawn.subplots(rows, 2).flat)
    panels, empty = places[: len(names)], places[len(names) :]
    for axes, name in zip(panels, names, strict=True):
        _draw_grid(axes, name)
    for axes in empty:
        axes.axis("off")
    by_label = {arm.get_label(): arm for axes in panels for arm in axes.containers}
    empty[0].legend(handles=list(by_label.values()), loc="center", fontsize=9)
    return drawn


def _draw_grid(axes: Axes, name: str) -> None:
    by_count = {count: from_baseline(arms)["score_sampled"] for count, arms in grid(name).items()}
    arms = dict.fromkeys(itertools.chain(*by_count.values()))
    for place, arm in enumerate(arms):
        mine = {count: found[arm].found for count, found in by_count.items() if arm in found}
        style, shift = style_of(ARMS[arm]["method"]), 1.06 ** (place - len(arms) / 2)
        at = np.array([shift * count for count in mine])
        low, high = (np.array([abs(getattr(one, end) - one.estimate) for one in mine.values()])
                     for end in ("low", "high"))  # fmt: skip
        axes.errorbar(
            at, [one.estimate for one in mine.values()], [low, high], color=style.colour, marker=style.marker,
            linestyle=DASHES.get(arm, "-"), label=title(arm), markersize=4, linewidth=1.2, capsize=2,
        )  # fmt: skip
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(by_count), [str(count) for count in by_count])
    axes.set(title=PANELS.get(name, name), xlabel="microbatches in an optimizer step",
             ylabel="sampled score minus REINFORCE's")  # fmt: skip


PANELS = {
    "bandit": "bandit: the batch grows",
    "bandit-one-batch": "bandit: one batch, cut finer",
    "transformer-starts": "transformer: the batch grows",
}
DASHES = {"proma, clamp 1": "--", "proma, no clamp": ":"}


# -------------------------------------------------------------------------------------------------- long runs


@functools.cache
def long_runs() -> Arms:
    arms: Arms = collections.defaultdict(dict)
    for run in unpack(long.STORED):
        arms[run.config["method"]][run.config["seed"]] = run
    return dict(arms)


def long_table() -> str:
    """Each method minus REINFORCE after 240 steps."""
    arms, found = long_runs(), from_baseline(long_runs())
    by_score = sorted(found["score_sampled"], key=lambda name: -found["score_sampled"][name].found.estimate)
    rows = [
        (title(method), *_spent(arms[method]), *(cell(of_method[method]) for of_method in found.values()))
        for method in by_score
    ]
    return markdown_table(headings(arms), [_baseline_row(arms), *rows])


# -------------------------------------------------------------------------------------- one setting at a time


def from_default(name: str) -> dict[str, dict[str, Compared]]:
    """Each variant of a tier minus PROMA's defaults, by metric and variant: local KL in the mean, others at the end."""
    cells = ablations.cells(name)
    usual = cells.pop("PROMA")
    metrics = ("score_sampled", "score", "kl_local", "kl_global", "entropy")
    return {
        metric: adjusted({variant: _ends(cell, metric) - _ends(usual, metric) for variant, cell in cells.items()},
                         Criteria())
        for metric in metrics
    }  # fmt: skip


def _ends(cell: Cell, metric: str) -> Array:
    """One value for each seed, in the seeds' order."""
    runs = sorted(cell.runs, key=lambda run: int(run.config["seed"]))
    series = dataclasses.replace(cell, runs=runs).series(metric)
    return series.mean(axis=1) if metric == "kl_local" else series[:, -1]


# ------------------------------------------------------------------------------------------------------ words


def title(arm: str) -> str:
    """As tables have it."""
    base = style_of(ARMS[arm]["method"] if arm in ARMS else arm).title
    return base + (f", {arm.partition(', ')[2]}" if ", " in arm else "")


def cell(one: Compared) -> str:
    """A difference, its interval, and its adjusted p-value."""
    return f"{spread(one.found.estimate, one.found.low, one.found.high)}<br>Holm {level(one.p_holm)}"


def searches(name: str) -> str:
    """The local KL that was aimed at, by the number of microbatches."""
    aimed = {}
    for count, arms in json.loads((GRID / f"{name}-search.json").read_text()).items():
        known = {arm: {float(rate): kl for rate, kl in of_arm.items()} for arm, of_arm in arms.items()}
        aimed[count] = target(GRIDS[name], known)
    return ", ".join(f"{kl:.2g} nats with {count}" for count, kl in aimed.items())


def hours() -> str:
    """What the judged runs of this page took."""
    files = [
        *(GRID / f"{name}.jsonl.gz" for name in with_runs()),
        *map(ablations.stored, ablations.with_runs()),
        long.STORED,
    ]
    taken = {path: sum(sum(step["seconds"] for step in run.metrics) for run in unpack(path)) / 3600 for path in files}
    words = ", ".join(f"{path.parent.name}/{path.name.partition('.')[0]} {spent:.1f}" for path, spent in taken.items())
    return f"The steps of the judged runs took {sum(taken.values()):.1f} core-hours on a busy machine: {words}."


def with_runs() -> list[str]:
    """The grids that have stored runs."""
    return [name for name in GRIDS if (GRID / f"{name}.jsonl.gz").exists()]
