# %% [markdown]
# # 8 · Your own update on the ladder
#
# *Is your idea better, or does it only move the policy further?*
#
# - **You should know**: lessons 2 and 3; lesson 7 helps.
# - **After this lesson you can** turn an idea into an update rule, compare it fairly, and say what you may claim and
#   what not.
# - **Time**: about 50 minutes with the exercises (an estimate). The computer needs about three of them.
#
# In this lesson you write an update rule of five lines, let a machine try to break it, train with it, and read the
# leaderboard. Symbols are in the [glossary](../docs/glossary.md).

# %%
import contextlib
import dataclasses
import inspect
import re
import tempfile
from pathlib import Path

import numpy as np
import torch
from checks import Outcome
from checks import lesson8 as check
from figures import lesson8 as draw
from figures.tables import table
from rich.console import Console

from proma_bench import testing
from proma_bench.cli.verify import describe_rule
from proma_bench.experiments.ladder import climb, make_plan
from proma_bench.experiments.matching import match
from proma_bench.report.judging import evaluate
from proma_bench.report.leaderboard import leaderboard
from proma_bench.report.paired import estimate
from proma_bench.report.plots import style_of
from proma_bench.report.reading import read_runs
from proma_bench.report.standings import grids
from proma_bench.runs.directory import read_run
from proma_bench.runs.matching import mean_local_kl

torch.set_num_threads(1)
SEEDS = 5
STEPS = 30
RATES = [0.0025, 0.005, 0.01]
PROCESSES = 2
EXAMPLES = 100
FULL = SEEDS == 5  # what the text says of results is true of the full run


# %% [markdown]
# ## An idea in five lines
#
# You know from lesson 2: in each parameter tensor, a step of PROMA is $A \leftarrow A + \sum_i u_i S_i$. The
# coefficients $u$ depend on three things alone: $K_{ij} = \langle S_i, S_j\rangle$, $c_i = \langle A, S_i\rangle$
# and the advantages $a_i$. Any other function of the three is an *update rule*, and it runs in the same backward pass.
#
# Here is an idea. PROMA solves a system of equations, so that nothing is removed twice. Try something simpler: for each
# sequence, take the component along it, as if it were the only one, and remove the *mean* of these components. There is
# no system of equations and no clamp.
#
# $$A \;\leftarrow\; A - \frac{1}{B} \sum_i \frac{c_i}{K_{ii}}\, S_i + \sum_i a_i S_i$$
#
# All tensors of a policy come at once, on leading axes: `gram [..., B, B]`, `overlap [..., B]`, `advantages [..., B]`.
# So count axes from the end.


# %%
def draft(gram, overlap, advantages):
    squares = gram.diagonal(dim1=-2, dim2=-1)  # K_ii
    along = overlap / squares
    return advantages - along / overlap.shape[-1]


# %% [markdown]
# ## What does it promise?
#
# Lesson 7 asked this of projections. A rule has promises of its own. The first three are asked of every rule. The other
# four say what kind of rule it is. In a shell the command is `proma-bench verify mine:draft`.


# %%
def show(findings):
    rows = [["holds" if one.holds else "**no**", one.name, without_file(one.failure or "")] for one in findings]
    table(["", "promise", "how it is broken"], rows, numbers=False)


def without_file(text):
    """An error names the file of a rule; a cell's has another name each time."""
    return re.sub(r" in \S+\.py", "", text)


findings = {one.name: one for one in testing.examine_rule(draft, examples=EXAMPLES)}
show(findings.values())
assert not any(one.holds for one in findings.values())
print(without_file(describe_rule(draft, findings["finite"].counterexample)))

# %% [markdown]
# All seven are broken, for one reason: where a sequence gradient is zero, the rule computes $0/0$. Such gradients do
# occur: an empty answer has one, and so has an expert that received none of a sequence's tokens. One NaN is enough to
# end a run. Along a gradient of zero there is nothing to remove, so say that:


# %%
def averaged(gram, overlap, advantages):
    squares = gram.diagonal(dim1=-2, dim2=-1)
    along = torch.where(squares > 0, overlap / squares, 0.0)
    return advantages - along / overlap.shape[-1]


findings = {one.name: one for one in testing.examine_rule(averaged, examples=EXAMPLES)}
show(findings.values())
assert all(one.holds for one in findings.values())

# %% [markdown]
# It keeps all seven. (One of them is that the order of the sequences does not matter, and PROMA's iterative method does
# not promise that.) But a promise says nothing about learning.
#
# ## Train with it
#
# A rule in a file is a method: `--method mine.py:averaged`. Four other methods run from the same seeds. You know
# REINFORCE and PROMA. The last two are *controls*. They exist only to be compared with:
#
# - `shrink` takes as much from $A$ as PROMA does, but along $A$ itself: it makes $A$ shorter and keeps its direction.
# - `elsewhere` is PROMA with mixtures of *all* sequences of the step in place of the microbatch's own. Over the whole
#   step it removes the same directions, but not when the microbatch comes to which they belong.
#
# What follows is this command, with fewer seeds and steps:
#
#     proma-bench ladder --tiers bandit --methods reinforce,proma,shrink,elsewhere,mine.py:averaged --match-kl
#
# `--match-kl` is explained below.
#
# **Your guess**: at a learning rate of 0.005 and after 30 steps, which one scores least? (a) REINFORCE, (b) PROMA,
# (c) shrinking, (d) projected elsewhere, (e) your rule.

# %%
guess = ...
MINE = "mine.py:averaged"
METHODS = ["reinforce", "proma", "shrink", "elsewhere", MINE]
folder = tempfile.TemporaryDirectory()
root = Path(folder.name)
(root / "mine.py").write_text("import torch\n\n\n" + inspect.getsource(averaged))
with contextlib.chdir(root):  # where mine.py is
    plan = dataclasses.replace(
        make_plan(["bandit"], "quick", SEEDS, methods=METHODS),
        settings={"bandit": {"steps": STEPS}},
        learning_rates={"bandit": RATES},
    )
    climb(plan, root / "runs", PROCESSES, Console(quiet=True))


def runs_of(method, rate):
    """The runs of a method at a learning rate, seed by seed."""
    return [read_run(job.path) for job in plan.jobs_of(root / "runs", "bandit", method, rate)]


def scores(method, rate):
    """The probability of the right label at the end, seed by seed."""
    return np.array([run.metrics[-1]["score_sampled"] for run in runs_of(method, rate)])


table(
    ["at a learning rate of 0.005", "final sampled score", "mean local KL, nats"],
    [
        [style_of(one).title, f"{scores(one, 0.005).mean():.2f}", f"{mean_local_kl(runs_of(one, 0.005)):.4f}"]
        for one in METHODS
    ],
)
least = min(METHODS, key=lambda one: scores(one, 0.005).mean())
assert not FULL or least == "shrink"
Outcome(guess, "abcde"[METHODS.index(least)], f"The lowest score is that of {style_of(least).title}.")

# %% [markdown]
# ## One learning rate is no comparison
#
# Look at the second column: at one learning rate the methods have moved their policies by different amounts. Does
# that matter? Ask REINFORCE, against itself, at half the rate:

# %%
(tier,) = evaluate(read_runs(root / "runs").runs)


def in_words(differences):
    """The mean of the middle half of paired differences, and its interval where there are five."""
    found = estimate(differences, tier.criteria)
    return f"{found.estimate:+.2f}" + (f" [{found.low:+.2f}, {found.high:+.2f}]" if found.n >= 5 else "")


itself = scores("reinforce", 0.005) - scores("reinforce", 0.0025)
mine = scores(MINE, 0.005) - scores("reinforce", 0.005)
table(
    ["difference of final sampled scores, seed by seed", ""],
    [
        ["your rule minus REINFORCE, both at 0.005", in_words(mine)],
        ["REINFORCE at 0.005 minus REINFORCE at 0.0025", in_words(itself)],
    ],
)
assert not FULL or (estimate(itself, tier.criteria).low > 0 and itself.mean() > mine.mean() / 2)
assert not FULL or mean_local_kl(runs_of(MINE, 0.005)) < mean_local_kl(runs_of("reinforce", 0.005))

# %% [markdown]
# In the second row there is *no method*, only a learning rate. Still it gains, and its interval does not contain zero.
# Such a difference is a **placebo**: a gain that needs no method. If you compare two methods at one learning rate, you
# may be measuring just that. (Here your rule has moved less than REINFORCE, and scored more. That is luck. If it had
# moved more, this table would say nothing.)
#
# So plot the score against the mean local KL of a step. Each line is a method, and each dot is a learning rate:

# %%
target = mean_local_kl(runs_of("reinforce", 0.005))
spent = {one: [mean_local_kl(runs_of(one, rate)) for rate in RATES] for one in METHODS}
reached = {one: [scores(one, rate).mean() for rate in RATES] for one in METHODS}
draw.score_by_kl(spent, reached, target, f"{SEEDS} seeds, {STEPS} steps, rates {', '.join(map(str, RATES))}")

# %% [markdown]
# A fair comparison is *vertical*: which method is higher at the same local KL, on the dotted line?
#
# ## At the same local KL
#
# Only REINFORCE has run exactly on the line. `--match-kl` looks for each method's learning rate there, and runs all
# seeds at it. A dash means that in four tries no rate came within 5 %:

# %%
with contextlib.chdir(root):
    match(plan, root / "runs", PROCESSES, Console(quiet=True))
(tier,) = evaluate(read_runs(root / "runs").runs)
board = leaderboard(tier)
_, against = grids(board)
names = [heading.replace("\n", " ") for heading in against.headings]
kept = [name for name in names if "there" in name or "rate" in name]
table(
    ["each minus REINFORCE", *kept],
    [
        [cell for name, cell in zip(names, row, strict=True) if name == "method" or name in kept]
        for row in against.rows
        if "placebo" not in row[0]
    ],
    numbers=False,
)

# %% [markdown]
# This is a part of the leaderboard, as `proma-bench report` prints it. Read a cell like this: a verdict (✓ higher, ✗
# lower, ? not decided), the estimate, its interval, and Holm's p-value, which takes the number of methods into
# account.
#
# With five seeds each verdict is a question mark, wherever its interval lies, because a verdict takes ten pairs. Still,
# the intervals say something.


# %%
def gain(method):
    """Final sampled score minus REINFORCE's at the same local KL: the estimate and its interval."""
    return board.matched[method].scores["score_sampled"].found


draw.gains({method: gain(method) for method in METHODS[1:] if method in board.matched})
assert not FULL or (gain(MINE).low > 0 and gain(MINE).estimate > 0.1)
assert not FULL or abs(gain("proma").estimate - gain(MINE).estimate) < 0.1
assert not FULL or all(one.scores["score_sampled"].verdict == "inconclusive" for one in board.matched.values())

# %% [markdown]
# At the same local KL your five lines do gain over REINFORCE, by more than 0.1, with an interval above zero. The
# learning rate does not explain that. Between your rule and PROMA there is less than 0.1, and five seeds do not tell
# these two apart.
#
# ## What are the controls for?
#
# You have a reason for your rule: it removes what the *new* samples would see. A control does as much as your rule, but
# without that reason.
#
# - `shrink` removes as much, in another direction. Find it in the picture with the dotted line. At its highest rate it
#   has moved further than REINFORCE at 0.005. What did it gain from that?
# - `elsewhere` removes what mixtures of all samples see. At a rate of 0.005 it has moved less than REINFORCE, and so
#   has PROMA. What do they gain?

# %%
further = max(RATES)
lost = scores("shrink", further) - scores("reinforce", 0.005)
gained = {one: scores(one, 0.005) - scores("reinforce", 0.005) for one in ("proma", "elsewhere")}
rows = [[f"shrinking at {further}, which has moved further", in_words(lost)]]
rows += [[f"{style_of(one).title} at 0.005, which has moved less", in_words(gained[one])] for one in gained]
table(["final sampled score minus REINFORCE's at 0.005", ""], rows)
assert not FULL or (lost.mean() < 0 and mean_local_kl(runs_of("shrink", further)) > target)
assert not FULL or all(mean_local_kl(runs_of(one, 0.005)) < target for one in gained)
assert not FULL or estimate(gained["elsewhere"], tier.criteria).low > 0
assert not FULL or gained["elsewhere"].mean() > gained["proma"].mean() / 2

# %% [markdown]
# `shrink` has moved further, and in the mean it scores *less* than REINFORCE (look at its interval: whether that is
# beyond doubt, five seeds do not say). So to make $A$ shorter does not give you PROMA's gain: the direction matters.
# And `elsewhere` gains more than half of what PROMA gains! So at least half of that gain does not need the microbatch's
# *own* samples. Without the control you would not have known.
#
# ## What you may say now
#
# *On the digits bandit, after 30 steps, at the same mean local KL, my rule scores more than REINFORCE (five seeds,
# the interval is above zero). It is not told apart from PROMA.* And not: *it is better than PROMA*, *it works for
# language models*, *it works because of the new samples*.
#
# With ten seeds and 60 steps you get verdicts, in [ten minutes](../docs/your_method.md). All methods stand on the
# [leaderboard](../docs/leaderboard.md).
#
# ## Exercises
#
# ### 1. A rule for all tensors at once
#
# Write PROMA without a clamp, with the exact projection, as a rule: $u = a - K^+ c$. Mind the leading axis, and that
# samples repeat.


# %%
def exact(gram, overlap, advantages): ...


check.exact(exact)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def exact(gram, overlap, advantages):
#     inverse = torch.linalg.pinv(gram, rtol=1e-12, hermitian=True)
#     return advantages - (inverse @ overlap.unsqueeze(-1)).squeeze(-1)
#
#
# check.exact(exact)
# ```
# </details>

# %% [markdown]
# ### 2. A control of your own
#
# Does it matter for `averaged` *which* sequences the parts are along? Write a control that differs in this alone: it
# removes the mean of as many parts, but along sequence $i$ it removes as much as `averaged` removes along sequence
# $i+1$ (along the last one: as along the first). "As much" is the norm of a part, its sign included: $c_i /
# \sqrt{K_{ii}}$ along $S_i / \sqrt{K_{ii}}$. Nothing goes along a gradient of zero.


# %%
def shuffled(gram, overlap, advantages): ...


check.shuffled(shuffled)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def shuffled(gram, overlap, advantages):
#     norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
#     sizes = torch.where(norms > 0, overlap / norms, 0.0).roll(-1, dims=-1)
#     return advantages - torch.where(norms > 0, sizes / norms, 0.0) / overlap.shape[-1]
#
#
# check.shuffled(shuffled)
# ```
# </details>

# %% [markdown]
# ### 3. A fair difference
#
# `mine` and `theirs` map learning rates to `(mean local KL, {seed: final score})`. Return the differences, mine minus
# theirs, seed by seed, each method at the rate whose local KL is nearest to `target`. A seed that is on one side only
# is left out.


# %%
def fair(mine, theirs, target): ...


check.fair(fair)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def fair(mine, theirs, target):
#     def nearest(method):
#         kl, scores = min(method.values(), key=lambda run: abs(run[0] - target))
#         return scores
#
#     ours, others = nearest(mine), nearest(theirs)
#     return [ours[seed] - others[seed] for seed in sorted(ours.keys() & others.keys())]
#
#
# check.fair(fair)
# ```
# </details>
#
# ## What next?
#
# That was the last lesson. `proma-bench new-method NAME` writes you a rule and its tests to begin with. The
# [cheat sheet](../docs/cheat_sheet.md) has PROMA and its relatives on one page. And these are good to read next:
#
# - **PROMA**: [Projected Microbatch Accumulation](https://arxiv.org/abs/2601.10498), and the same author's
#   [ISOPO](https://arxiv.org/abs/2512.23353), another function of $K$ and $a$.
# - **Bounds on a step's KL**: [TRPO](https://arxiv.org/abs/1502.05477), and [PPO](https://arxiv.org/abs/1707.06347),
#   which approximates it.
# - **Groups of answers**: [GRPO](https://arxiv.org/abs/2402.03300), [Dr. GRPO](https://arxiv.org/abs/2503.20783) on its
#   normalisation, [GSPO](https://arxiv.org/abs/2507.18071) on ratios of whole sequences.
# - **Conflicts between gradients**: [PCGrad](https://arxiv.org/abs/2001.06782),
#   [OGD](https://arxiv.org/abs/1910.07104), [GEM](https://arxiv.org/abs/1706.08840).
# - **How to compare**: [Deep RL at the edge of the statistical precipice](https://arxiv.org/abs/2108.13264).
