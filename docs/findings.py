"""Writes the tables, the figure and the sentences of docs/findings.md from stored runs.

python -m docs.findings            write them
python -m docs.findings --check    fail if the page has others

As in `docs.sentences`, each sentence requires its table.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import ablations, clamp
from docs import studies
from docs.leaderboard import filled
from docs.sentences import is_there, number, require, told
from proma_bench.report.plots import png
from proma_bench.report.statistics import Interval
from proma_bench.runs.matching import mean_local_kl

HOME = Path(__file__).parent
PAGE = HOME / "findings.md"
FIGURE = HOME / "findings.png"


def sentences() -> str:
    """What the tables of the page say, as a list.

    Raises:
        ValueError: a table says something else.
    """
    return "\n".join(
        f"- {one}" for one in (_grows(), _not_alone(), _one_batch(), _clamp(), _settings(), _long(), _transformer())
    )


def _grows() -> str:
    by_count = {count: studies.from_baseline(arms)["score_sampled"]["proma"] for count, arms in _bandit().items()}
    growth = studies.growth("bandit")["proma"]
    require([is_there(one) for one in by_count.values()] == [False, True, True], "PROMA's gain is there at 16 and 64")
    require(is_there(growth), "PROMA's gain grows")
    few, some, many = by_count.values()
    return (
        "**At equal local KL PROMA learns more than REINFORCE on the bandit with 16 or 64 microbatches in a step.** "
        f"Its final sampled score is {told(some)} higher with 16 and {told(many)} with 64; with 4 it is {told(few)}. "
        f"From 4 to 64 the difference grows by {told(growth)}."
    )


def _not_alone() -> str:
    growth = studies.growth("bandit")
    require(all(is_there(growth[name]) for name in ("grpo", "elsewhere")), "GRPO and `elsewhere` grow as well")
    ours = studies.from_ours("bandit")["score_sampled"]
    require(
        {pair for pair, one in ours.items() if is_there(one)} == {(16, "grpo")}, "PROMA is above GRPO with 16 alone"
    )
    require(ours[16, "elsewhere"].verdict == "holds", "`elsewhere` is nearly beyond doubt with 16")
    return (
        "**Where the batch grows as well, that growth is not PROMA's own.** GRPO's gain grows by "
        f"{number(growth['grpo'])}, that of projecting elsewhere by {number(growth['elsewhere'])}. "
        f"With 16 microbatches PROMA is above GRPO by {told(ours[16, 'grpo'])}, and above projecting elsewhere by "
        f"{told(ours[16, 'elsewhere'])}, which is not quite beyond doubt; with 64 the differences are "
        f"{told(ours[64, 'grpo'])} and {told(ours[64, 'elsewhere'])}."
    )


def _one_batch() -> str:
    growth, ours = studies.growth("bandit-one-batch"), studies.from_ours("bandit-one-batch")["score_sampled"]
    require(is_there(growth["proma"]) and not is_there(growth["grpo"]), "PROMA's gain grows, and GRPO's does not")
    require(is_there(growth["elsewhere"]), "that of projecting elsewhere grows")
    some, many = (
        studies.from_baseline(studies.grid("bandit-one-batch")[count])["score_sampled"]["proma"].found.estimate
        for count in (16, 64)
    )
    require(many <= some, "PROMA's gain does not grow beyond 16")
    require(
        {pair for pair, one in ours.items() if not is_there(one)} == {(4, "grpo")},
        "PROMA is above GRPO but with 4, and above `elsewhere` throughout",
    )
    spent = {arm: [mean_local_kl(list(arms[arm].values())) for arms in studies.grid("bandit-one-batch").values()]
             for arm in ("grpo", "proma")}  # fmt: skip
    require(max(spent["grpo"]) < min(spent["proma"]), "GRPO spends less local KL on the judged seeds")
    return (
        "**The same batch, cut finer, gives PROMA more, and projecting elsewhere as well.** With 128 sequences in a "
        f"step throughout, PROMA's gain over REINFORCE grows by {told(growth['proma'])} from 4 microbatches of 32 to "
        f"64 of 2, all of it up to 16, and that of projecting elsewhere by {told(growth['elsewhere'])}, while GRPO's "
        f"changes by {told(growth['grpo'])}. With 64 PROMA is above GRPO by {told(ours[64, 'grpo'])}, though GRPO "
        f"moved the policy less on these seeds ({min(spent['grpo']):.2g} nats, PROMA {min(spent['proma']):.2g} to "
        f"{max(spent['proma']):.2g}). It is above projecting elsewhere by {told(ours[4, 'elsewhere'])} with 4 and "
        f"{told(ours[64, 'elsewhere'])} with 64. (With 16 these are the runs of the sentence above.)"
    )


def _clamp() -> str:
    shares = {name: np.mean(of_seeds, axis=0) for name, of_seeds in json.loads(clamp.STORED.read_text()).items()}
    found = studies.from_baseline(_bandit()[64])["score_sampled"]
    half, one, none = (found[name].found.estimate for name in ("proma", "proma, clamp 1", "proma, no clamp"))
    require(none < one < half, "of the clamps, 0.5 gains most with 64 microbatches")
    (plain, adam), (plain_off, adam_off) = shares["0.5"], shares["none"]
    require(plain > 0.5 and adam > 0.5, "the clamp leaves most")
    return (
        "**The default clamp leaves most of what the projection is meant to remove.** At 0.5, "
        f"{plain:.0%} of the old part's KL on the next microbatch is left in the gradient's direction, and {adam:.0%} "
        f"after Adam's scaling; without a clamp {plain_off:.0%} and {adam_off:.0%}. Removing more did not raise the "
        f"gain: with 64 microbatches it is {half:+.2f} with the clamp at 0.5, {one:+.2f} at 1, and {none:+.2f} without."
    )


def _settings() -> str:
    found = studies.settings("transformer")
    shuffled, *composed = (found[name] for name in ("PROMA", "microbatches of one group", "microbatches of one length"))
    for other in composed:
        require(all(_overlap(shuffled[metric], other[metric]) for metric in shuffled), "composition moves nothing")
    for name in ("clamp 1", "no clamp"):
        require(found[name]["kl_local"].high < shuffled["kl_local"].low, f"local KL is lower with {name}")
        require(found[name]["score_sampled"].high < shuffled["score_sampled"].low, f"the score is lower with {name}")
    kl, score = (
        [f"{found[name][metric].mean:.2g}" for name in ("clamp 1", "no clamp", "PROMA")]
        for metric in ("kl_local", "score_sampled")
    )
    return (
        "**On the transformer the clamp matters, and what goes into a microbatch was not seen to.** With ten seeds at "
        f"one learning rate, mean local KL is {kl[0]} with a clamp of 1 and {kl[1]} without one, instead of {kl[2]}, "
        f"and the final sampled score {score[0]} and {score[1]} instead of {score[2]}; the intervals do not meet. "
        "The intervals of shuffled microbatches do meet those of microbatches with the answers to one question, or "
        "with answers of one length, in score, KL and entropy. Nothing is matched there, so this does not say which "
        "clamp is better."
    )


def _overlap(one: Interval, other: Interval) -> bool:
    return bool(one.low <= other.high and other.low <= one.high)


def _long() -> str:
    found = studies.from_baseline(studies.long_runs())
    require(not any(is_there(one) for of_score in found.values() for one in of_score.values()), "nothing is there")
    return (
        f"**After 240 steps, nothing is beyond doubt.** With ten seeds and {len(found['score'])} comparisons, PROMA's "
        f"final sampled score is {told(found['score_sampled']['proma'])} above REINFORCE's, and no method's difference "
        "in score or entropy has an adjusted p-value below 0.05."
    )


def _transformer() -> str:
    ((_, arms),) = studies.grid("transformer").items()
    found = studies.from_baseline(arms)["score_sampled"]
    require(not any(is_there(one) for one in found.values()), "the transformer decides nothing")
    words = ", ".join(f"{studies.title(name)} {number(one)}" for name, one in found.items())
    return (
        "**The transformer decides nothing.** With 16 microbatches and five seeds, at about equal local KL, the final "
        f"sampled score minus REINFORCE's is: {words}."
    )


def _bandit() -> dict[int, studies.Arms]:
    return studies.grid("bandit")


def contents() -> dict[str, str]:
    """What stands between the markers of the page."""
    found = {
        "clamp": clamp.table(),
        "long": studies.long_table(),
        "hours": studies.hours(),
    }
    found |= {f"ablations: {name}": ablations.table(name) for name in ablations.with_runs()}
    for name in studies.with_runs():
        found |= {
            f"grid: {name}": studies.grid_table(name),
            f"ours: {name}": studies.ours_table(name),
            f"target: {name}": f"Aimed at: {studies.searches(name)} microbatches.",
        }
        if len(studies.grid(name)) > 1:
            found[f"growth: {name}"] = studies.growth_table(name)
    return found


def main(arguments: Sequence[str]) -> int:
    text = PAGE.read_text()
    new = filled(text, contents() | {"findings": sentences()})
    if "--check" in arguments:
        return int(new != text)
    PAGE.write_text(new)
    FIGURE.write_bytes(png(studies.figure()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
