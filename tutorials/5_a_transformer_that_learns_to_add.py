# %% [markdown]
# # 5 · A transformer that learns to add
#
# *What does a policy lose while it gains, and how can you tell that it has lost too much?*
#
# - **You should know**: lesson 1 for entropy and KL; what a language model's tokens and sampling are.
# - **After this lesson you can** train a small language model on rewards, tell a gain from a collapse, and say why
#   sampled accuracy may rise while greedy accuracy falls.
# - **Time**: about 45 minutes with the exercises (an estimate). The computer needs about four of them.
#
# The policy is now a language model, of the very class of Qwen3 (grouped queries, rotary positions, RMSNorm, a tied
# head), but with fewer than a million parameters. A sequence is a generated answer. You train it with three methods
# and two variations, and look at its entropy. Symbols are in the [glossary](../docs/glossary.md).
#
# The next minutes cannot show everything. Each run has a single seed, and a seventh of the steps that the tier takes.
# The comparison of the methods, with seeds, intervals and all ablations, is in
# [docs/transformer.md](../docs/transformer.md).

# %%
import collections
import contextlib
import dataclasses
import io
import tempfile
from pathlib import Path

import torch
from checks import Outcome
from checks import lesson5 as check
from figures import lesson5 as draw
from figures.tables import table
from IPython.display import Markdown, display
from rich.console import Console

from proma_bench.experiments.jobs import Job
from proma_bench.experiments.ladder import finish
from proma_bench.experiments.training import Training
from proma_bench.language.sampling.huggingface import HuggingFaceSampler
from proma_bench.learning.divergences import entropy as mean_entropy
from proma_bench.report.curves import moving_mean, series
from proma_bench.report.statistics import Cell
from proma_bench.report.table import ablation_table, markdown
from proma_bench.runs import checkpoints
from proma_bench.runs.directory import read_run
from proma_bench.tiers.transformer.config import TransformerConfig

STEPS = 24  # optimizer steps of each run
WARM_START_STEPS = 450
PROMPTS = 64
PROCESSES = 2
FULL = STEPS == 24  # what the text says of results is true of the full run

config = TransformerConfig(
    steps=STEPS,
    learning_rate=5e-5,  # the tier's own
    warmup_steps=5,
    warm_start_steps=WARM_START_STEPS,
    prompts=PROMPTS,
    max_new_tokens=6,
    validate_every=8,
    validation_questions=128,
)

# %% [markdown]
# ## Where it begins
#
# From random weights, the policy would have to find a right answer by chance before it could learn anything. So it
# first imitates a teacher. Half of the teacher's sums are wrong, off by 1 or by 10. This *warm start* takes about a
# minute. It is kept in `~/.cache/proma_bench`, so you wait for it only once.

# %%
with contextlib.redirect_stderr(io.StringIO()):  # a line that says where it is kept
    start = Training(config)
tier = start.tier
size = sum(parameter.numel() for parameter in start.policy.parameters())
scores = tier.evaluate(start.policy)
words = f"The policy has {size:,} parameters in {len(list(start.policy.parameters()))} tensors. "
words += f"Right answers to {len(tier.task.validation)} held-out questions: {scores['score']:.0%} of the most likely "
display(Markdown(words + f"ones, {scores['score_sampled']:.0%} of those sampled."))
assert size < 1e6 and (not FULL or scores["score"] > scores["score_sampled"] + 0.2)

# %% [markdown]
# The policy has learned to add, and also to be unsure: its most likely answer is far better than an answer that it
# samples. So training has to move probability to answers that the policy already knows. Look at its answers to some
# questions:

# %%
tokenizer = tier.answers.prompting.tokenizer


def answers(policy, question, count=400):
    """How often each answer comes, of so many that are sampled."""
    sampler = HuggingFaceSampler(policy.model, tier.answers.prompting.stop_token_ids, config.max_new_tokens)
    rollout = sampler.sample(tier.answers.prompting.tokens([question]), count, torch.Generator().manual_seed(0))
    texts = tokenizer.batch_decode([row[row >= 0].tolist() for row in rollout.answers], skip_special_tokens=True)
    return collections.Counter(texts)


def most_frequent(question):
    """The four answers that come most often, each with its share."""
    return [f"{text} ({count / 400:.0%})" for text, count in answers(start.policy, question).most_common(4)]


table(
    ["question", "right answer", "the most frequent answers"],
    [[one.text, one.answer, ", ".join(most_frequent(one))] for one in tier.task.validation[:4]],
)

# %% [markdown]
# ## Five runs
#
# Train with the three methods, with the same settings. Add PROMA without its clamp, which is one of the ablations of
# `proma-bench run transformer --ablate`. And add REINFORCE at ten times the learning rate, to see what goes wrong.
#
# **Your guess**: which runs will end with *fewer* right answers among the sampled ones than the warm start gives?
# (a) none, (b) only the one at ten times the rate, (c) that one and others.

# %%
guess = ...
HASTY = "REINFORCE, 10 × the rate"
VARIANTS = {
    "REINFORCE": {"method": "reinforce"},
    "GRPO": {"method": "grpo"},
    "PROMA": {"method": "proma"},
    "PROMA, no clamp": {"method": "proma", "max_removed": None},
    HASTY: {"method": "reinforce", "learning_rate": 5e-4},
}
folder = tempfile.TemporaryDirectory()
jobs = {
    name: Job(Path(folder.name) / name.replace(" ", "-"), dataclasses.replace(config, **settings))
    for name, settings in VARIANTS.items()
}
finish(list(jobs.values()), PROCESSES, Console(quiet=True))
runs = {name: read_run(job.path) for name, job in jobs.items()}
found = {name: Cell(config.title, job.config.method, config.learning_rate, [runs[name]]) for name, job in jobs.items()}
display(Markdown(markdown(ablation_table(config, found, seeds=1))))

# %%
first_batch = tier.sample(start.policy, start.generators)
with torch.no_grad():
    before = mean_entropy(start.policy.on(first_batch), first_batch)


def curves(run):
    """Steps and right answers, sampled, where they were measured, and the entropy after each step; all from step 0."""
    measured = [step for step in run.metrics if step["score_sampled"] is not None]
    spent = moving_mean(series(run, "entropy"), config.steps_per_batch)  # batches differ in how hard they are
    gained = [scores["score_sampled"], *(step["score_sampled"] for step in measured)]
    return [0, *(step["step"] for step in measured)], gained, [before, *spent]


draw.gained_and_spent({name: curves(run) for name, run in runs.items()})

# %% [markdown]
# The entropy is the mean over the tokens of the answers, each over the whole vocabulary:
#
# $$\text{entropy} = \frac{1}{T} \sum_t \sum_v -\,p_t(v) \log p_t(v) .$$
#
# Less entropy is no fault in itself: a policy that is more certain of its answers has less. The question is what it got
# in return:

# %%
ends = {name: run.metrics[-1] for name, run in runs.items()}
table(
    ["run", "entropy at the start", "entropy at the end", "right answers, sampled: end minus start"],
    [
        [name, f"{before:.2f}", f"{end['entropy']:.2f}", f"{end['score_sampled'] - scores['score_sampled']:+.1%}"]
        for name, end in ends.items()
    ],
)

worse = [name for name, end in ends.items() if end["score_sampled"] < scores["score_sampled"]]
hasty = ends[HASTY]
assert not FULL or (worse == [HASTY] and hasty["score_sampled"] < scores["score_sampled"] - 0.05)
assert not FULL or hasty["entropy"] < before
came_out = {(): "a", (HASTY,): "b"}.get(tuple(worse), "c")
Outcome(guess, came_out, f"Fewer right answers than at the start: {', '.join(worse) or 'none'}.")

# %% [markdown]
# A policy that has less entropy *and* fewer right answers than before has **collapsed**. At the tier's own learning
# rate no run does. (With twice that rate, says the setting's documentation, all
# methods lose greedy accuracy, and you would compare damage.) Here is what the hasty run has made of one question:

# %%
policies = {}
for name, job in jobs.items():
    training = Training(job.config)
    checkpoints.restore(job.path / "checkpoint", training, last_step=STEPS)
    policies[name] = training

shown = {"warm start": start, "PROMA": policies["PROMA"], HASTY: policies[HASTY]}
question = next(question for question in tier.task.validation if len(question.text.split()) == 3)  # of two terms
counts = {name: answers(training.policy, question) for name, training in shown.items()}
draw.shares_of_answers(question, counts)

# %% [markdown]
# ## Sampled answers rise, greedy answers fall?
#
# Look at the scores in the table of runs again. You may find runs whose *sampled* score has risen and whose *greedy*
# score has not, or has even fallen. Is that a contradiction? Look at single questions. A greedy answer is the most
# likely one. If the two most likely answers have nearly the same probability, a small change is enough to swap them.


# %%
def sampled(policy, count, generator):
    """The texts of answers to every held-out question; without a generator the most likely one."""
    sampler = HuggingFaceSampler(policy.model, tier.answers.prompting.stop_token_ids, config.max_new_tokens)
    rollout = sampler.sample(tier.answers.prompting.tokens(tier.task.validation), count, generator)
    texts = tokenizer.batch_decode([row[row >= 0].tolist() for row in rollout.answers], skip_special_tokens=True)
    return [texts[i : i + count] for i in range(0, len(texts), count)]


def margin(texts):
    """The share of the most frequent answer minus that of the second."""
    (_, first), (_, second) = [*collections.Counter(texts).most_common(2), ("", 0)][:2]
    return (first - second) / len(texts)


def greedy_is_right(policy):
    texts = sampled(policy, 1, None)
    return [text == question.answer for (text,), question in zip(texts, tier.task.validation, strict=True)]


margins = [margin(texts) for texts in sampled(start.policy, 64, torch.Generator().manual_seed(0))]
was = greedy_is_right(start.policy)
swapped, others, rows = [], [], []
for name in ("REINFORCE", "GRPO", "PROMA"):
    now = greedy_is_right(policies[name].policy)
    lost, won = sum(a > b for a, b in zip(was, now, strict=True)), sum(a < b for a, b in zip(was, now, strict=True))
    assert not FULL or (lost > 0 and won > 0)
    rows.append([name, lost, won])
    for a, b, gap in zip(was, now, margins, strict=True):
        (swapped if a != b else others).append(gap)
table([f"of {len(was)} greedy answers", "became wrong", "became right"], rows)
if swapped:
    means = [sum(gaps) / len(gaps) for gaps in (swapped, others)]
    words = f"The mean margin at the start was {means[0]:.2f} where that changed, and {means[1]:.2f} where not."
    display(Markdown(words))

# %% [markdown]
# In every run some greedy answers became wrong and others became right. The greedy score shows only the balance of the
# two. (The sentence below the table compares how close a call it was at the start. It will differ on your machine.) The
# policy gradient raises the *expected* reward of sampled answers, which is the mean probability of right ones. Nothing
# in it asks which answer comes first. So sampled accuracy can rise while greedy accuracy falls. And 128 questions are
# few: each of them is 0.8 % of the greedy score. That is why the score of this tier is the sampled one.

# %% [markdown]
# ## Why a collapse heals slowly, if at all
#
# Advantages compare the answers within a group of $m$. If all of them are right, or all of them are wrong, every
# advantage is zero: the group is *silent*. If all questions were equally hard, answered right with probability $p$,
# then
#
# $$\text{share of silent groups} = p^m + (1 - p)^m .$$
#
# Ask each policy a fresh batch of questions:


# %%
def silent(rewards, group_size):
    """The share of groups whose rewards are all equal."""
    groups = rewards.view(-1, group_size)
    return float((groups == groups[:, :1]).all(dim=1).float().mean())


points = {}
for name, training in {"warm start": start, **policies}.items():
    batch = first_batch if training is start else tier.sample(training.policy, training.generators)
    points[name] = float(batch.rewards.mean()), silent(batch.rewards, config.group_size)
draw.silence(points, config.group_size)
assert not FULL or (points[HASTY][1] > points["warm start"][1] and points[HASTY][0] < points["warm start"][0])

# %% [markdown]
# The hasty policy has more silent groups than the warm start, because it no longer tries what would be right. From a
# silent group it learns nothing, so a collapse heals slowly, if at all. (Look
# at the first picture: the hasty run has won back only a part of what it lost.) (A point lies above the line where
# questions differ in difficulty.) On the right side of the picture, silence is good: all answers are right, and nothing
# is left to learn. So entropy has no value of its own. A policy needs it to find the next improvement. That is why the
# paper's claims ask for it *at the same score*, too.
#
# One seed with so few steps cannot tell you which method uses its entropy best. Lesson 3 says what that takes, and
# [docs/transformer.md](../docs/transformer.md) says what came out.

# %% [markdown]
# ## Exercises
#
# ### 1. The entropy of an answer
#
# From `logits [B, T, V]` and `mask [B, T]` (true where there is a real token) compute the mean entropy over all real
# tokens.


# %%
def entropy(logits, mask): ...


check.entropy(entropy)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def entropy(logits, mask):
#     log_p = logits.log_softmax(dim=-1)
#     return -(log_p.exp() * log_p).sum(dim=-1)[mask].mean()
#
#
# check.entropy(entropy)
# ```
# </details>

# %% [markdown]
# ### 2. Whose silence?
#
# Return two shares of all groups: of those that are silent because every answer is right, and because every answer is
# wrong. `rewards [N]` are 0 or 1, groups are neighbours.


# %%
def silences(rewards, group_size): ...  # return all_right, all_wrong


check.silences(silences)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def silences(rewards, group_size):
#     right = rewards.view(-1, group_size).mean(dim=1)
#     return float((right == 1).float().mean()), float((right == 0).float().mean())
#
#
# check.silences(silences)
# ```
# </details>

# %% [markdown]
# ### 3. What a token weighs
#
# An optimizer step has answers of unequal length. Return the weight of every token, `[B, T]`, zero where `mask` is
# false, so that all weights sum to one: `"token-mean"`, every token of the step weighs the same (the paper's run), or
# `"sequence-mean"`, every answer does.


# %%
def weights(mask, normalisation): ...


check.weights(weights)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def weights(mask, normalisation):
#     real = mask.double()
#     if normalisation == "token-mean":
#         return real / real.sum()
#     return real / real.sum(dim=1, keepdim=True) / len(mask)
#
#
# check.weights(weights)
# ```
# </details>
#
# Next: [6 · Qwen3-0.6B on GSM8K](6_qwen3_on_gsm8k.ipynb), where the model is a real one.
