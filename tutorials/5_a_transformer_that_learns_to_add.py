# %% [markdown]
# # 5 · A transformer that learns to add
#
# *What does a policy lose while it gains, and how can you tell that it has lost too much?*
#
# - **You should know**: lesson 1 for entropy and KL; what a language model's tokens and sampling are.
# - **After this lesson you can** train a small language model on rewards, tell a gain from a collapse, and say why a
#   collapse does not heal.
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

import matplotlib.pyplot as plt
import torch
from checks import lesson5 as check
from IPython.display import Markdown, display
from rich.console import Console

from proma_bench.experiments.jobs import Job
from proma_bench.experiments.ladder import finish
from proma_bench.experiments.training import Training
from proma_bench.language.sampling.huggingface import HuggingFaceSampler
from proma_bench.report.curves import moving_mean, series
from proma_bench.report.statistics import Cell
from proma_bench.report.table import ablation_table, markdown
from proma_bench.runs import checkpoints
from proma_bench.runs.directory import read_run
from proma_bench.tiers.transformer.config import TransformerConfig

plt.style.use("lessons.mplstyle")
STEPS = 24  # optimizer steps of each run
WARM_START_STEPS = 450
PROMPTS = 64
PROCESSES = 2

config = TransformerConfig(
    steps=STEPS,
    learning_rate=1e-4,  # twice the tier's own, as the runs are short
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
print(f"{size:,} parameters in {len(list(start.policy.parameters()))} tensors")
print(f"right answers to {len(tier.task.validation)} held-out questions: ", end="")
print(f"{scores['score']:.0%} of the most likely ones, {scores['score_sampled']:.0%} of those sampled")

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


for question in tier.task.validation[:4]:
    most = ", ".join(f"{text} ({count / 400:.0%})" for text, count in answers(start.policy, question).most_common(4))
    print(f"{question.text:10} = {question.answer:3}   answered {most}")

# %% [markdown]
# ## Five runs
#
# Train with the three methods, with the same settings. Add PROMA without its clamp, which is one of the ablations of
# `proma-bench run transformer --ablate`. And add REINFORCE at five times the learning rate, to see what goes wrong.
#
# The learning rate is twice the tier's own, because the runs are short. That has a price: at this rate *all* methods
# lose greedy accuracy, the share of questions whose most likely answer is right. Sampled accuracy may still rise,
# because the policy gradient raises the mean probability of right answers, and nothing in it asks which answer comes
# first.

# %%
VARIANTS = {
    "REINFORCE": {"method": "reinforce"},
    "GRPO": {"method": "grpo"},
    "PROMA": {"method": "proma"},
    "PROMA, no clamp": {"method": "proma", "max_removed": None},
    "REINFORCE, 5 × the rate": {"method": "reinforce", "learning_rate": 5e-4},
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
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
for name, run in runs.items():
    measured = [step for step in run.metrics if step["score_sampled"] is not None]
    left.plot(
        [0, *(step["step"] for step in measured)],
        [scores["score_sampled"], *(step["score_sampled"] for step in measured)],
        label=name,
    )
    spent = moving_mean(series(run, "entropy"), config.steps_per_batch)  # batches differ in how hard they are
    right.plot(range(1, STEPS + 1), spent, markevery=6)
left.set(xlabel="optimizer step", ylabel="right answers, sampled", title="what is gained")
right.set(xlabel="optimizer step", ylabel="entropy (nats a token)", title="what is spent")
figure.legend(loc="outside lower center", ncols=3)
plt.show()

# %% [markdown]
# The entropy is the mean over the tokens of the answers, each over the whole vocabulary:
#
# $$\text{entropy} = \frac{1}{T} \sum_t \sum_v -\,p_t(v) \log p_t(v) .$$
#
# Less entropy is no fault in itself: a policy that is more certain of its answers has less. The question is what it got
# in return:

# %%
for name, run in runs.items():
    end = run.metrics[-1]
    gained = end["score_sampled"] - scores["score_sampled"]
    print(f"{name:24} entropy at the end {end['entropy']:.2f}   right answers, sampled {gained:+.0%}")

# %% [markdown]
# A policy that has less entropy *and* fewer right answers than before has **collapsed**. Here is what the run at five
# times the rate has made of one question:

# %%
policies = {}
for name, job in jobs.items():
    training = Training(job.config)
    checkpoints.restore(job.path / "checkpoint", training, last_step=STEPS)
    policies[name] = training

shown = {
    "warm start": start,
    "PROMA": policies["PROMA"],
    "REINFORCE, 5 × the rate": policies["REINFORCE, 5 × the rate"],
}
question = next(question for question in tier.task.validation if len(question.text.split()) == 3)  # of two terms
counts = {name: answers(training.policy, question) for name, training in shown.items()}
texts = [text for text, _ in sum(counts.values(), collections.Counter()).most_common(9)]
for number, ((name, count), hatch) in enumerate(zip(counts.items(), ["", "//", ".."], strict=True)):
    places = [place + 0.27 * (number - 1) for place in range(len(texts))]
    colour = ["black", "#bbbbbb", "white"][number]
    plt.bar(
        places, [count[text] / 400 for text in texts], 0.25, label=name, color=colour, hatch=hatch, edgecolor="black"
    )
plt.xticks(range(len(texts)), [f"{text}\n(right)" if text == question.answer else text for text in texts])
plt.xlabel(f"answer to {question.text}")
plt.ylabel("share of 400 samples")
plt.legend()
plt.show()

# %% [markdown]
# ## Why a collapse does not heal
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


rates = torch.linspace(0, 1, 101)
G = config.group_size
plt.plot(
    rates, rates**G + (1 - rates) ** G, "-", color="#777777", marker="", label="if all questions were equally hard"
)
for (name, training), marker in zip({"warm start": start, **policies}.items(), "o^sDvX", strict=True):
    batch = tier.sample(training.policy, training.generators)
    plt.plot(batch.rewards.mean(), silent(batch.rewards, G), marker, label=name, markersize=8, linestyle="none")
plt.xlabel("right answers")
plt.ylabel("share of silent groups")
plt.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# From a silent group a policy learns nothing, so a policy that no longer tries the right answers does not find them
# again. (Points lie above the line because questions differ in difficulty.) On the right side of the picture, silence
# is good: all answers are right, and nothing is left to learn. So entropy has no value of its own. A policy needs it to
# find the next improvement. That is why the paper's claims ask for it *at the same score*, too.
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
