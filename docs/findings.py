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
from benchmarks.grid import GRIDS
from docs import acrobot, stand_in, studies
from docs.leaderboard import filled
from docs.sentences import is_there, number, require, told
from proma_bench.report.matrix import level
from proma_bench.report.plots import png
from proma_bench.runs.matching import mean_local_kl

HOME = Path(__file__).parent
PAGE = HOME / "findings.md"
FIGURES = {HOME / "findings.png": studies.figure, HOME / "findings-acrobot.png": acrobot.figure}


def sentences() -> str:
    """What the tables of the page say, as a list.

    Raises:
        ValueError: a table says something else.
    """
    return "\n".join(
        f"- {one}"
        for one in (
            _grows(), _not_alone(), _one_batch(), _clamp(), _settings(), _long(), _transformer(), _starts(), _acrobot(),
            _stand_in(),
        )
    )  # fmt: skip


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
    half, one, none = _gains("bandit", "proma", "proma, clamp 1", "proma, no clamp")
    half_cut, one_cut = _gains("bandit-one-batch", "proma", "proma, clamp 1")
    require(none < one < half, "with growing batches, 0.5 gains most with 64 microbatches")
    require(half_cut < one_cut, "with one batch, 1 gains more")
    (plain, adam), (plain_off, adam_off) = shares["0.5"], shares["none"]
    require(plain > 0.5 and adam > 0.5, "the clamp leaves most")
    return (
        "**The default clamp leaves most of what the projection is meant to remove.** At 0.5, "
        f"{plain:.0%} of the old part's KL on the next microbatch is left in the gradient's direction, and {adam:.0%} "
        f"after Adam's scaling; without a clamp {plain_off:.0%} and {adam_off:.0%}. Whether removing more raises the "
        f"gain depends on the batch: with 64 microbatches it is {half:+.2f} with the clamp at 0.5, {one:+.2f} at 1, "
        f"and {none:+.2f} without where the batch grows, but {half_cut:+.2f} and {one_cut:+.2f} where one batch is cut."
    )


def _gains(name: str, *arms: str) -> list[float]:
    """Estimates of what arms of a grid gain over REINFORCE with 64 microbatches."""
    found = studies.from_baseline(studies.grid(name)[64])["score_sampled"]
    return [found[arm].found.estimate for arm in arms]


def _settings() -> str:
    found = studies.from_default("transformer")
    clamps, composed = ("no clamp", "clamp 1"), ("microbatches of one group", "microbatches of one length")
    score, entropy, kl = (found[metric] for metric in ("score_sampled", "entropy", "kl_local"))
    for name in clamps:
        require(is_there(score[name]) and score[name].found.high < 0, f"{name}: the sampled score is lower")
        require(is_there(entropy[name]) and entropy[name].found.low > 0, f"{name}: entropy is higher")
        require(kl[name].found.high < 0 and not is_there(kl[name]), f"{name}: local KL is lower, not beyond doubt")
    rest = [of_metric[name] for of_metric in found.values() for name in composed]
    require(not any(map(is_there, rest)), "what goes into a microbatch moves nothing")
    return (
        "**At one learning rate, PROMA with other clamps learns less on the transformer; what goes into a microbatch "
        f"was not seen to matter.** With ten seeds, minus the default's, the final sampled score is "
        f"{told(score['no clamp'])} without a clamp and {told(score['clamp 1'])} with a clamp of 1, and entropy "
        f"{told(entropy['no clamp'])} and {told(entropy['clamp 1'])}. Mean local KL is lower, but not beyond doubt "
        f"(Holm {level(min(kl[name].p_holm for name in clamps))}). Microbatches with the answers to one question, or "
        "with answers of one length, differ from shuffled ones in no score, KL or entropy beyond doubt "
        f"(Holm {level(min(one.p_holm for one in rest))} at best)."
    )


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
        "**With five seeds, the transformer decides nothing.** With 16 microbatches, at about equal local KL, the "
        "final "
        f"sampled score minus REINFORCE's is: {words}."
    )


def _starts() -> str:
    grid = studies.grid("transformer-starts")
    found = {count: studies.from_baseline(arms)["score_sampled"] for count, arms in grid.items()}
    ours, growth = studies.from_ours("transformer-starts"), studies.growth("transformer-starts")
    for count in grid:
        gains, score, entropy = found[count], *(ours[metric][count, "grpo"] for metric in ("score_sampled", "entropy"))
        require(is_there(gains["grpo"]) and not is_there(gains["proma"]), "GRPO is above REINFORCE, PROMA is not")
        require(is_there(score) and score.found.high < 0, "PROMA is below GRPO")
        require(is_there(entropy) and entropy.found.low > 0, "PROMA's entropy is higher than GRPO's")
    require(is_there(growth["grpo"]) and not is_there(growth["proma"]), "GRPO's gain grows, PROMA's does not")
    spent = {(arm, count): mean_local_kl(list(arms[arm].values())) for count, arms in grid.items()
             for arm in ("proma", "grpo")}  # fmt: skip
    require(all(spent["proma", count] < spent["grpo", count] for count in grid), "GRPO moved the policy more")
    kl = [f"{spent['grpo', count]:.2g} nats against {spent['proma', count]:.2g} with {count}" for count in grid]
    return (
        "**On the transformer with three warm starts and ten seeds, GRPO learns more than PROMA at about equal local "
        f"KL.** GRPO's final sampled score is above REINFORCE's by {told(found[16]['grpo'])} with 16 microbatches and "
        f"{told(found[64]['grpo'])} with 64; PROMA's is {told(found[16]['proma'])} and {told(found[64]['proma'])}. "
        f"PROMA minus GRPO is {told(ours['score_sampled'][16, 'grpo'])} and {told(ours['score_sampled'][64, 'grpo'])}, "
        f"with more entropy: {told(ours['entropy'][64, 'grpo'])} with 64. The match of the search did not hold well: "
        f"on the judged seeds GRPO moved the policy more ({', '.join(kl)}), which is to its advantage. PROMA's gain "
        f"does not grow beyond doubt: {told(growth['proma'])}; GRPO's does: {told(growth['grpo'])}."
    )


def _acrobot() -> str:
    found, ours = studies.from_baseline(acrobot.runs()), studies.from_ours("acrobot")
    others = [one for of_measure in (*found.values(), *ours.values()) for one in of_measure.values()]
    require(not any(map(is_there, others)), "nothing is decided on Acrobot")
    counts, never = ({arm: len(seeds) for arm, seeds in of_arm.items()}
                     for of_arm in (acrobot.failed(), acrobot.never_learned()))  # fmt: skip
    require(
        counts["proma"] == counts["grpo"] == counts["elsewhere"] < counts["reinforce"], "REINFORCE fails more often"
    )
    lowest, seeds = min(acrobot.sign_test(arm).p for arm in counts if arm != "reinforce"), len(acrobot.runs()["proma"])
    require(lowest > 0.05, "the sign tests decide nothing")
    return (
        f"**On Acrobot, where runs fail, {seeds} seeds decide nothing.** At about equal local KL, "
        f"{counts['reinforce']} of {seeds} runs of REINFORCE do not reach the height at the end, and {counts['proma']} "
        f"each of PROMA, GRPO and projecting elsewhere (sign tests of the paired seeds: p {lowest:.2g} at best); "
        f"{sum(never.values())} of these {sum(counts.values())} never learned anything. Minus REINFORCE's, the return "
        f"of the last ten steps is {told(found['reward']['grpo'])} with GRPO and {told(found['reward']['proma'])} with "
        f"PROMA; PROMA minus GRPO is {told(ours['reward'][16, 'grpo'])}. (Interquartile means of differences do not "
        "add up.)"
    )


def _stand_in() -> str:
    found = stand_in.differences()
    require(not any(is_there(one) for of_pairs in found.values() for one in of_pairs.values()), "nothing is there")
    kl, entropy, greedy = (found[name] for name in (stand_in.KL, "entropy", "greedy score"))
    ours, grpo = ("proma", "reinforce"), ("proma", "grpo")
    return (
        f"**On the pretrained stand-in, {kl[ours].found.n} pairs decide nothing.** At the paper's rate PROMA's "
        f"mean local KL minus REINFORCE's is {told(kl[ours])}, its entropy {told(entropy[ours])}, and its greedy score "
        f"{told(greedy[ours])}; minus GRPO's they are {told(kl[grpo])}, {told(entropy[grpo])} and "
        f"{told(greedy[grpo])}. A verdict takes ten pairs."
    )


def _bandit() -> dict[int, studies.Arms]:
    return studies.grid("bandit")


def contents() -> dict[str, str]:
    """What stands between the markers of the page."""
    found = {
        "clamp": clamp.table(),
        "long": studies.long_table(),
        "failed": acrobot.table(),
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
        if GRIDS[name].warm_starts > 1:
            found[f"starts: {name}"] = studies.starts_table(name)
    return found


def main(arguments: Sequence[str]) -> int:
    text = PAGE.read_text()
    new = filled(text, contents() | {"findings": sentences()})
    if "--check" in arguments:
        return int(new != text)
    PAGE.write_text(new)
    for path, figure in FIGURES.items():
        path.write_bytes(png(figure()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
