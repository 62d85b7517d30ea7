# %% [markdown]
# # 3 · Episodes
#
# *When is "PROMA is better" a result, and when is it luck?*
#
# - **You should know**: lessons 0 and 1, and what a confidence interval is.
# - **After this lesson you can** train on episodes, compare two methods by paired runs, read a claim with its interval,
#   and ask the right questions when a claim fails or holds.
# - **Time**: about 50 minutes with the exercises (an estimate). The computer needs less than three of them.
#
# From here on a sequence is more than one action. You train a policy on whole episodes of CartPole, with three methods.
# Then you learn to read what comes out. A claim is a difference between *paired* runs with an interval around it, and
# the interval decides whether the claim holds, fails, or is still open.
#
# REINFORCE is the plain policy gradient. GRPO is the same with likelihood ratios against the policy that sampled,
# clipped to $1 \pm 0.2$. PROMA you know. Nothing is implemented again here: everything you call is what `proma-bench
# ladder` and `proma-bench report` call. Symbols are in the [glossary](../docs/glossary.md).

# %%
import itertools
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from checks import Outcome
from checks import lesson3 as check
from figures import lesson3 as draw
from figures.tables import as_printed, table
from IPython.display import Markdown, display
from rich.console import Console

from proma_bench.experiments.jobs import Job
from proma_bench.experiments.ladder import finish
from proma_bench.experiments.training import Training, train
from proma_bench.learning.methods import METHODS
from proma_bench.report.claims import CLAIMS
from proma_bench.report.curves import curves_of, series
from proma_bench.report.judging import evaluate, judge
from proma_bench.report.matrix import claims_table
from proma_bench.report.paired import estimate
from proma_bench.report.plots import along_score, learning_curves
from proma_bench.report.reading import read_runs
from proma_bench.report.statistics import at_rate, cells
from proma_bench.tiers.gym.config import GymConfig

torch.set_num_threads(1)  # faster for small tensors
STEPS = 14
SEEDS = 10
LEARNING_RATES = [0.005, 0.01]
PROCESSES = 2

# %% [markdown]
# ## A sequence is an episode
#
# The policy acts once in every time step. A batch has groups of 8 episodes that begin alike. It lays all their steps
# end to end, and `sequence_ids` says to which episode each step belongs.

# %%
training = Training(GymConfig(method="proma", steps=STEPS))
batch = training.sample()
log_probs = training.policy.on(batch).log_prob(batch.actions)  # one a step, [N]
of_episodes = batch.per_sequence(log_probs)  # one a sequence, [B]
display(Markdown(f"{len(batch)} episodes, {batch.rows} steps: observations {list(batch.observations.shape)}."))

# %% [markdown]
# The log-prob of an episode is the sum over its steps, and its advantage compares its return with its own group,
#
# $$\log p_i = \sum_{t \in i} \log p_\theta(\mathrm{action}_t \mid o_t), \qquad
# a_i = (R_i - \mathrm{mean}(R)) / \mathrm{std}(R) .$$
#
# Here $o_t$ is what the policy sees at step $t$, and $R_i$ is the return of episode $i$. This is the first group.
# CartPole pays 1 for every step that the pole stays up, so return and length are the same.

# %%
table(
    ["episode", "return", "log-prob", "advantage"],
    [[i, f"{batch.rewards[i]:.0f}", f"{of_episodes[i]:.2f}", f"{batch.advantages[i]:.2f}"] for i in range(8)],
)

# %% [markdown]
# ## One run of each
#
# All three have the same seed, so they have the same initial weights and the same starts. Which method is best?

# %%
draw.one_run_each({method: train(GymConfig(method=method, steps=STEPS)) for method in METHODS})

# %% [markdown]
# ## The same from many seeds
#
# Now run every method from ten seeds, at two learning rates, as `proma-bench ladder` does on this tier (it takes 20
# steps in place of 14). The criteria that will judge the runs are written to each run's `config.json` before its first
# step. Otherwise you could choose them afterwards.
#
# **Your guess**: you have just seen one run of each method. With ten seeds, for how many of the paper's six claims at
# one learning rate is there a verdict *holds*? Set `guess` to `"a"` (none), `"b"` (one to three) or `"c"` (four or
# more).

# %%
guess = ...
folder = tempfile.TemporaryDirectory()
root = Path(folder.name)
jobs = [
    Job(root / f"{method}-{rate:g}-{seed}", GymConfig(method=method, steps=STEPS, seed=seed, learning_rate=rate))
    for seed, rate, method in itertools.product(range(SEEDS), LEARNING_RATES, METHODS)
]
finish(jobs, PROCESSES, Console(quiet=True))
runs = read_runs(root).runs
(tier,) = evaluate(runs)
words = f"{len(runs)} runs of {tier.comparable.title}. At the same settings, the learning rate is {tier.rate}. "
display(Markdown(words + f"The criteria: {tier.criteria}."))

# %%
with plt.style.context("default"):
    figure = learning_curves(tier.comparable.title, at_rate(cells(runs), tier.rate), tier.criteria.score)
    figure.set_dpi(75)
figure

# %% [markdown]
# *Local KL* is KL(policy before an optimizer step ‖ after it), *global KL* is KL(current ‖ initial), both over the
# full action distribution at visited states.
#
# The shaded intervals say how sure you can be of each method's *mean*. Those of the score are wide, because some seeds
# are lucky with their starts. Where intervals overlap, that does not settle whether methods differ: seed 3 of PROMA and
# seed 3 of GRPO share their luck. So look at differences within pairs.
#
# ## A claim is a paired difference
#
# For every seed take PROMA minus the baseline, one number for each seed. The *estimate* is the mean of the middle half
# of these differences (the interquartile mean), so that one wild seed does not decide. The *interval* is of Student's
# kind: the estimate plus and minus its standard error, times a factor. The factor is such that the interval misses zero
# in one sample of twenty where there is no difference. The fewer pairs, the larger the factor. With fewer than five
# pairs there is no interval.

# %%
SAME = {
    method: [tier.comparable.select(method, [tier.rate], seed)[0] for seed in range(SEEDS)] for method in METHODS
}  # the runs at one learning rate, seed by seed


def mean_local_kl(run):
    return float(np.nanmean(series(run, "kl_local")))


def local_kl_minus(baseline):
    """PROMA's mean local KL minus the baseline's, seed by seed."""
    return [
        mean_local_kl(ours) - mean_local_kl(theirs) for ours, theirs in zip(SAME["proma"], SAME[baseline], strict=True)
    ]


differences = local_kl_minus("grpo")
found = estimate(differences, tier.criteria)
display(
    Markdown(
        f"""
- The differences: {", ".join(f"{value:+.4f}" for value in differences)}.
- The estimate is {found.estimate:+.4f}, its 95 % interval [{found.low:+.4f}, {found.high:+.4f}], from {found.n} pairs.
- The claim that local KL is lower than with GRPO: *{judge("lower", found, tier.criteria)}*.
"""
    )
)

# %% [markdown]
# Given ten pairs or more, the verdict follows from the interval:
#
# - All of it is below zero: the claim *lower* holds.
# - All of it is above zero: the claim fails, and that is as much of a result.
# - Zero is inside: the data are *inconclusive*, which is not the same as "no difference".
#
# For the claim *not lower* the line is not zero but minus the *margin*: the loss that still counts as not lower (2 % of
# the score's range).
#
# Here are all claims of the paper on this tier, at one learning rate. Each has a unit of its own, so the differences
# are divided by their spread, and turned so that right is what the claim says. Entropy must be higher both at the same
# step and at the same score, and the row shows the part that decides.

# %%
shown = [(claim, baseline) for claim in CLAIMS.values() for baseline in claim.baselines if claim.same_settings]
curves = {method: curves_of([[run] for run in SAME[method]]) for method in METHODS}
rows = []
for claim, baseline in shown:
    pair = curves["proma"], curves[baseline]
    values = np.array([measure.compare(*pair, tier.criteria).values for measure in claim.same_settings]).T
    key = (claim.name, baseline, "same_settings")
    result = next(one for one in tier.results if (one.claim, one.baseline, one.protocol) == key)
    estimates = [estimate(column, tier.criteria).estimate for column in values.T]
    part = estimates.index(result.estimate) if result.estimate in estimates else 0  # of two parts, the one that decides
    rows.append((claim, baseline, values[:, part], result))
draw.claims(rows, tier.criteria.margin)
holding = sum(result.verdict == "holds" for *_, result in rows)
words = f"Of {len(rows)} claims at one learning rate, {holding} hold" + ("s." if holding == 1 else ".")
Outcome(guess, "a" if holding == 0 else "b" if holding <= 3 else "c", words)

# %% [markdown]
# A row whose black bar lies right of its line *holds*. Left of it, it *fails*. Across it, it is *inconclusive*. Look at
# the single dots: where they lie on both sides of the line, one seed could have told you either.
#
# ## How many seeds?
#
# Take only the first $n$ seeds, for growing $n$, and look at the interval. With fewer than ten pairs there is no
# verdict, wherever the interval lies, because so few seeds may all be of one kind.

# %%
intervals = {}
for baseline in ("grpo", "reinforce"):
    differences = local_kl_minus(baseline)
    intervals[baseline] = [estimate(differences[:n], tier.criteria) for n in range(5, SEEDS + 1)]
titles = {
    baseline: f"local KL, PROMA minus {METHODS[baseline].style.title}: {judge('lower', found[-1], tier.criteria)}"
    for baseline, found in intervals.items()
}
draw.closing_in(intervals, titles)

# %% [markdown]
# ## At equal step, or at equal score?
#
# A policy that stands still has no KL at all. So a method that learns more slowly looks *local* without any effort, and
# a comparison at the same step and learning rate favours it. Ask instead what each method pays for a score. Read off a
# run's KL where its score reaches a level, and let each method answer, at every level, with the lowest of its learning
# rates that gets there. That is its *frontier*. (Score and measure are smoothed over five steps, and then steps are
# joined until the score only rises, so that one lucky evaluation does not count as a level that was reached.) Low is
# good for both kinds of KL, and high is good for entropy.

# %%
with plt.style.context("default"):
    figure = (
        along_score(tier.comparable, tier.rates, tier.criteria) or plt.figure()
    )  # none where no two scores are shared
    figure.set_dpi(75)
figure

# %% [markdown]
# Each curve covers the scores that all seeds of its method reach, so two curves may cover different scores. The
# verdicts below compare seed by seed, over the scores that both of a pair reach.
#
# Be careful with local KL. It is the KL of one step, and many small steps keep it low at equal score, too. So a row of
# the frontier has a *placebo*: the baseline at the lower learning rates minus the baseline at the higher ones, one
# method against itself. A row whose difference is no larger than that says nothing about methods. Values at the edge of
# the sweep say little, too, because a learning rate beyond it might do better.

# %%
as_printed(claims_table([tier]))

# %% [markdown]
# Every verdict of this table is a chance to be wrong. Where nothing differs, an interval still misses zero in up to one
# case of twenty, so one false verdict in such a table is no surprise. *Holm* is the p-value that takes the number of
# verdicts into account. Where it is below 0.05, you can believe the verdicts together.
#
# ## When a claim fails

# %%
by_verdict = {
    verdict: [
        f"`{one.claim}` against {METHODS[one.baseline].style.title} ({one.protocol.replace('_', ' ')})"
        for one in tier.results
        if one.verdict == verdict
    ]
    for verdict in ("holds", "fails", "inconclusive")
}
display(Markdown("\n".join(f"- **{verdict}**: {', '.join(of) or 'none'}" for verdict, of in by_verdict.items())))

# %% [markdown]
# If a row fails, do not argue with it. Ask four questions, in this order:
#
# 1. *Which protocol?* If it fails at the same settings and *holds* on the frontier, the method was only further along.
#    If the frontier is inconclusive, these data cannot tell. If it fails on both, the method pays more for the same
#    score.
# 2. *How large?* An interval may exclude zero, and still the difference may be too small to matter. Read the
#    estimate in its unit.
# 3. *Against whom?* GRPO clips likelihood ratios and PROMA does not. With two optimizer steps per batch and a policy of
#    two actions, clipping *may* be a strong leash; `clip` is a setting, so you can find out.
# 4. *Where?* This is CartPole with four microbatches per step. With so few there *may* be little to project. The
#    command `proma-bench ladder` writes the same table for all tiers.
#
# Ask the same questions of a row that holds.

# %% [markdown]
# ## Exercises
#
# ### 1. The log-prob of an episode
#
# From the log-prob of every step `[N]` and the episode `ids [N]` that it belongs to, compute the log-prob of each of
# `count` episodes. They are of unequal length.


# %%
def of_episodes(log_probs, ids, count): ...


check.of_episodes(of_episodes)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def of_episodes(log_probs, ids, count):
#     return log_probs.new_zeros(count).index_add(0, ids, log_probs)
#
#
# check.of_episodes(of_episodes)
# ```
# </details>

# %% [markdown]
# ### 2. Pairs
#
# `ours` and `theirs` map seeds to a metric, and some runs have not finished. Return the differences that a paired
# comparison is made of, ours minus theirs.


# %%
def pairs(ours, theirs): ...


check.pairs(pairs)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def pairs(ours, theirs):
#     return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
#
#
# check.pairs(pairs)
# ```
# </details>

# %% [markdown]
# ### 3. The verdict
#
# Return `"holds"`, `"fails"` or `"inconclusive"` for the statement that PROMA's score is *not lower* than the
# baseline's, where a loss of up to `margin` counts as not lower. `low` and `high` are the ends of the interval of
# PROMA minus the baseline.


# %%
def not_lower(low, high, margin): ...


check.not_lower(not_lower)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def not_lower(low, high, margin):
#     if low >= -margin:
#         return "holds"
#     return "fails" if high < -margin else "inconclusive"
#
#
# check.not_lower(not_lower)
# ```
# </details>

# %% [markdown]
# ### 4. What a score costs
#
# A run's `scores` and `kl`, step by step; the scores only rise. Return the KL where the score reaches `level`, linearly
# interpolated between the two steps around that point. (`level` lies between the first score and the last.)


# %%
def kl_at(scores, kl, level): ...


check.kl_at(kl_at)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def kl_at(scores, kl, level):
#     return np.interp(level, scores, kl)
#
#
# check.kl_at(kl_at)
# ```
# </details>
#
# Next: [4 · Inside the backward pass](4_inside_the_backward_pass.ipynb), where one backward pass gives the gradient of
# every sequence.
