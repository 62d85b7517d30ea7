"""The table of failed runs of docs/findings.md, and its figure, from stored runs; `docs.findings` writes them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest

from benchmarks.grid import ARMS
from benchmarks.stored_runs import final
from docs.studies import Arms, grid, title
from proma_bench.report.markdown import markdown_table
from proma_bench.report.plots import style_of
from proma_bench.runs.directory import Run
from proma_bench.runs.matching import BASELINE

FAILED = -499.0
"""A mean return of the last ten steps that is not above it; an episode that never reaches the height has -500."""
LEARNED = -450.0
"""The mean return of a batch above which a run has learned something."""


def runs() -> Arms:
    """The judged runs by arm, in the grid's order, and by seed."""
    (arms,) = grid("acrobot").values()
    return {arm: arms[arm] for arm in ARMS if arm in arms}


def failed() -> dict[str, set[int]]:
    """The seeds of each arm whose policy does not reach the height at the end."""
    return {
        arm: {seed for seed, run in of_arm.items() if not final(run, "reward") > FAILED}
        for arm, of_arm in runs().items()
    }


def never_learned() -> dict[str, set[int]]:
    """Those of them without a batch that is better than `LEARNED`: the others have learned, and lost it."""
    return {
        arm: {seed for seed in seeds if max(returns(runs()[arm][seed])) <= LEARNED} for arm, seeds in failed().items()
    }


def returns(run: Run) -> list[float]:
    """The mean return of each batch, of two steps."""
    rewards = [step["reward"] for step in run.metrics]
    return [(first + second) / 2 for first, second in zip(rewards[::2], rewards[1::2], strict=True)]


class SignTest(NamedTuple):
    """Seeds that fail with an arm alone, with REINFORCE alone, and the exact p-value."""

    mine: int
    other: int
    p: float


def sign_test(arm: str) -> SignTest:
    """Whether an arm fails more or less often than REINFORCE, by the seeds where they differ."""
    found = failed()
    mine, other = len(found[arm] - found[BASELINE]), len(found[BASELINE] - found[arm])
    return SignTest(mine, other, float(binomtest(mine, mine + other).pvalue) if mine + other else 1.0)


def table() -> str:
    """How many runs failed, how many of them never learned, and whether they are more or fewer than REINFORCE's."""
    never, rows = never_learned(), []
    for arm, seeds in failed().items():
        mine, other, p = sign_test(arm)
        own = ("", "", "") if arm == BASELINE else (str(mine), str(other), f"{p:.2g}")
        rows.append((title(arm), f"{len(seeds)} of {len(runs()[arm])}", str(len(never[arm])), *own))
    headings = ("method", "failed runs", "never learned", "failed with it alone", "with REINFORCE alone", "p")
    return markdown_table(headings, rows)


def figure() -> Figure:
    """The return of the sampled episodes against optimizer steps: a panel for each arm, a line for each seed."""
    drawn = Figure(figsize=(8.5, 5.6), layout="constrained")
    panels = drawn.subplots(2, 2, sharex=True, sharey=True)
    for axes, (arm, of_arm) in zip(panels.flat, runs().items(), strict=True):
        curves = np.array([returns(run) for run in of_arm.values()])
        steps = 2 * np.arange(1, curves.shape[1] + 1)
        colour = style_of(ARMS[arm]["method"]).colour
        axes.plot(steps, curves.T, color=colour, alpha=0.35, linewidth=0.8)
        axes.plot(steps, np.median(curves, axis=0), color=colour, linewidth=2.2)
        axes.set_title(f"{title(arm)}: {len(failed()[arm])} of {len(of_arm)} failed")
    for axes in panels[-1]:
        axes.set_xlabel("optimizer steps")
    for axes in panels[:, 0]:
        axes.set_ylabel("return of sampled episodes")
    return drawn
