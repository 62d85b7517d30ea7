# %% [markdown]
# # 6 · Qwen3-0.6B on GSM8K
#
# *What changes when the same update trains a real language model?*
#
# - **You should know**: lessons 4 and 5.
# - **After this lesson you can** count what has to fit into a GPU's memory, say what counts as a right answer, look
#   whether a run was sound, and start the real run.
# - **Time**: about 45 minutes with the exercises (an estimate). The computer needs about two of them.
#
# The code of the update stays the same, and only the model changes. The costs change completely. In this lesson you
# count memory, see what counts as a right answer, run the fourth tier with a small stand-in model, and read its report.
# At the end are the commands for the real model. They are written for one GPU, and **we have not run them on a GPU**.
# So expect surprises there. Everything that they call has run on a CPU. Symbols are in the
# [glossary](../docs/glossary.md).

# %%
import contextlib
import io
import itertools
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from checks import Outcome
from checks import lesson6 as check
from figures import lesson6 as draw
from figures.tables import as_printed, table
from IPython.display import Markdown, display
from rich.console import Console
from transformers import Qwen3Config, Qwen3ForCausalLM

from proma_bench.experiments.jobs import Job
from proma_bench.experiments.ladder import finish
from proma_bench.language.models import byte_tokenizer, tiny_qwen3
from proma_bench.language.warm_start import warm_start
from proma_bench.learning.config import to_json
from proma_bench.learning.methods import METHODS
from proma_bench.report.build import report
from proma_bench.report.judging import evaluate
from proma_bench.report.leaderboard import leaderboard
from proma_bench.report.matrix import claims_table
from proma_bench.report.plots import learning_curves
from proma_bench.report.reading import read_runs
from proma_bench.report.settings import run_command
from proma_bench.report.standings import standings_tables
from proma_bench.report.statistics import cells
from proma_bench.report.table import summary_table
from proma_bench.runs.directory import read_json, read_run
from proma_bench.tasks.gsm8k import GSM8K
from proma_bench.tasks.reasoning import Task
from proma_bench.tasks.scoring import lenient_number, strict_number
from proma_bench.tiers.llm.config import LLMConfig

STEPS = 16
SEEDS = 2
PROMPTS = 32
WARM_START_STEPS = 450
PROCESSES = 2
FULL = STEPS == 16  # what the text says of results is true of the full run

# %% [markdown]
# ## The paper's run, as defaults
#
# The tier's settings are those of the paper wherever it names them, so you do not have to remember any:

# %%
paper = LLMConfig()
names = "model task prompts group_size steps_per_batch microbatch_size learning_rate max_prompt_tokens max_new_tokens "
names += "loss_aggregation projection sweeps max_removed shrinkage steps"
table(["setting", "default"], [[f"`{name}`", getattr(paper, name)] for name in names.split()], numbers=False)
sequences = paper.prompts * paper.group_size // paper.steps_per_batch
words = f"An optimizer step has {sequences} solutions in {sequences // paper.microbatch_size} microbatches."
display(Markdown(words))

# %% [markdown]
# ## What must never be in memory
#
# Build the model without its weights (on torch's `meta` device), and count.
#
# **Your guess**: which of these would need most memory, if you held all of it at once? (a) the weights, (b) the moments
# of AdamW, (c) the gradient of each sequence of a microbatch, (d) the logits of a microbatch.

# %%
guess = ...
with torch.device("meta"):
    shape = Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3ForCausalLM(shape)
size = sum(parameter.numel() for parameter in model.parameters())
tokens = paper.microbatch_size * paper.max_new_tokens  # the longest that a microbatch can be
GIB = 2**30
needed = {
    "weights, float32": 4 * size,
    "gradient, float32": 4 * size,
    "AdamW's two moments": 2 * 4 * size,
    "PROMA's workspace": 256 * 2**20,
}
avoided = {
    "sequence gradients written out": paper.microbatch_size * 4 * size,
    "logits of a microbatch, float32": tokens * shape.vocab_size * 4,
}
display(Markdown(f"{size:,} parameters in {len(list(model.parameters()))} tensors."))

# %%
in_gib = [{name: size / GIB for name, size in sizes.items()} for sizes in (needed, avoided)]
draw.memory(*in_gib)
largest = max(avoided, key=avoided.get)
assert min(avoided.values()) > max(needed.values()) and largest == "sequence gradients written out"
Outcome(guess, "c", f"Written out, the sequence gradients take {avoided[largest] / GIB:.0f} GiB, 8 times the weights.")

# %% [markdown]
# Each hatched bar is larger than every grey one. Lesson 4 is why the first is not needed: the Gram matrix comes from
# factors, a block of rows at a time. The second is avoided in a similar way: the log-probs of the head are computed for
# a few tokens at a time, and again in the backward pass. Gradient checkpointing keeps the activations small.
#
# The multiplications are in bfloat16, while weights and gradients stay in float32. Adam's steps are about as large as
# the learning rate, and a bfloat16 weight cannot take so small a step:

# %%
weight, step = torch.tensor(0.02), torch.tensor(2e-6)
moved = {
    dtype: bool(weight.to(dtype) + step.to(dtype) != weight.to(dtype)) for dtype in (torch.float32, torch.bfloat16)
}
assert moved == {torch.float32: True, torch.bfloat16: False}
table(
    [f"a weight of {weight:.2g} plus {step:.0e}", "does it move?"],
    [[f"in {str(dtype).removeprefix('torch.')}", "yes" if it_does else "no"] for dtype, it_does in moved.items()],
    numbers=False,
)

# %% [markdown]
# ## What a solution is worth
#
# GSM8K has word problems whose solutions end in `#### number`. If you have no network, templates of `reasoning-gym`
# take their place (`--data synthetic`):

# %%
problem = GSM8K("synthetic", validation_questions=4).validation[0]
print(problem.text)
print("\nanswer:", problem.answer)

# %% [markdown]
# A completion is read in two ways. *Strict* is what the reward is made of: the last `#### number` within the last 300
# characters, as the paper's framework reads it. *Lenient* takes any form that can be understood. Both are reported
# separately, because a model may gain by learning the form alone, and that is not mathematics.

# %%
completions = [
    "He pays 3 * 6 = 18 dollars.\n#### 18",
    "#### 1,234.0",
    r"So the answer is \boxed{18}.",
    "The final answer is $18.",
    "#### 18 or perhaps 19",
    "#### eighteen",
    "I do not know.",
]
table(
    ["completion", "strict", "lenient"],
    [[f"`{text!r}`", strict_number(text), lenient_number(text)] for text in completions],
)

# %% [markdown]
# ## A stand-in on the same tier
#
# `--model` takes a directory in the form that models have on the hub: weights in safetensors, a tokenizer, a chat
# template. Here you make a very small one: the transformer of lesson 5 after its warm start. (If you have run that
# lesson, it is there already.) This tier treats it like any other pretrained model. It is unsure of sums, so sums are
# its task.

# %%
folder = tempfile.TemporaryDirectory()
root = Path(folder.name)
tokenizer = byte_tokenizer()
model = tiny_qwen3(len(tokenizer), 256)
with contextlib.redirect_stderr(io.StringIO()):  # a line that says where it is kept
    warm_start(model, Task("chain_sum", 128), tokenizer, WARM_START_STEPS, flawed=0.5)
# It knows nothing but "3 + 4" in a line, so its template leaves the rest of the message out.
tokenizer.chat_template = "{{ messages[0]['content'].split(': ')[1].split(' =')[0] + '\\n' }}"
model.save_pretrained(root / "model")
tokenizer.save_pretrained(root / "model")
print(sorted(path.name for path in (root / "model").iterdir()))

# %%
SETTINGS = {
    "model": str(root / "model"),
    "task": "chain_sum",
    "task_options": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
    "steps": STEPS,
    "prompts": PROMPTS,
    "learning_rate": 5e-5,  # the paper's 2e-6 is for a far larger model
    "warmup_steps": 4,
    "max_prompt_tokens": 100,
    "max_new_tokens": 6,
    "validation_questions": 128,
    "validation_samples": 4,
    "dtype": "float32",
    "gradient_checkpointing": False,
}
jobs = [
    Job(root / "runs" / method / f"seed-{seed}", LLMConfig(method=method, seed=seed, **SETTINGS))
    for seed, method in itertools.product(range(SEEDS), METHODS)
]
finish(jobs, PROCESSES, Console(quiet=True))
print(run_command(to_json(jobs[0].config)).replace(str(root), "DIR"))

# %% [markdown]
# That command is how the run would be started from a shell.
#
# ## Reading a run
#
# Everything about a run is in its directory, and you can read it while the run goes on:

# %%
run = next(job.path for job in jobs if job.config.method == "proma")
for path in sorted(path for path in run.iterdir() if not path.name.startswith(".")):
    print(path.name)
last = read_run(run).metrics[-1]
values = {name: value for name, value in last.items() if name != "removed_by_layer"}
table(["metrics of the last step", ""], [[f"`{name}`", f"{value:.4g}"] for name, value in values.items()])

# %% [markdown]
# Before you look at the score, check that the run was sound:
#
# - `sampler_gap`: how far the sampler's log-probs are from the trainer's, in the mean. If the sampler is vLLM and the
#   trainer uses transformers, rounding alone makes them differ. If it is more than that, the answers are not the
#   policy's own.
# - `cut`, `empty`, `overlong`: how many answers were cut off at `max_new_tokens`, how many were empty, and how many
#   prompts did not fit. An answer that is cut off has no `####`; its zero says nothing about its mathematics.
# - `grad_norm`, `clamped`, `removed_ratio`: zeros mean that all groups are silent (lesson 5), and no step was taken.
# - `score`, `score_lenient`, `score_sampled`: greedy in the strict form, greedy in any, and sampled. (A sum
#   has only one form, so the lenient one is missing here.)
# - `kl_local` and `kl_global`: how far a step has moved the policy, and how far all of them together.

# %%
gaps_of = {
    job.path.parent.name: [step["sampler_gap"] for step in read_run(job.path).metrics] for job in jobs[: len(METHODS)]
}
table(["method", "largest `sampler_gap`"], [[name, f"{max(gaps):.1e}"] for name, gaps in gaps_of.items()])
initial = read_json(run / "summary.json")["initial"]
ends = {job.path: read_run(job.path).metrics[-1] for job in jobs}
more_sampled = sum(end["score_sampled"] > initial["score_sampled"] for end in ends.values())
less_greedy = sum(end["score"] < initial["score"] for end in ends.values())
words = f"Before training, greedy accuracy is {initial['score']:.3f}, and sampled {initial['score_sampled']:.3f}. "
words += f"Sampled accuracy has risen in {more_sampled} of {len(ends)} runs, "
display(Markdown(words + f"greedy accuracy has fallen in {less_greedy}."))
assert not FULL or more_sampled == len(ends)

# %% [markdown]
# Do not worry where the greedy accuracy has fallen. Lesson 5 explains it: training raises the probability of right
# answers, and the most likely answer changes only where two answers were close. With 128 questions, one of them is 0.8
# %.

# %% [markdown]
# ## The report
#
# `proma-bench report DIR` reads whatever runs it finds under `DIR`, prints tables, and writes `report.html`, one page
# with everything on it. These are its tables:

# %%
page = report(root / "runs", Console(quiet=True))
runs = read_runs(root / "runs").runs
(tier,) = evaluate(runs)
for one in (summary_table("llm/chain_sum", cells(runs)), *standings_tables(leaderboard(tier)), claims_table([tier])):
    as_printed(one)
display(Markdown(f"The page is `DIR/{page.relative_to(root)}`."))

# %%
with plt.style.context("default"):
    figure = learning_curves("llm/chain_sum", cells(runs), "score")
    figure.set_dpi(75)
figure

# %% [markdown]
# The figure is on the page, too. You know how to read it by now. First look at how many seeds there are. With so few,
# every claim is *inconclusive*, whatever the curves look like. The intervals of lesson 3 do not get narrower because
# the model is larger.
#
# ## The real thing
#
# These commands are for a machine with one GPU, and with network access or local copies of model and data:

# %%
recipe = {
    "PROMA, with the paper's settings": LLMConfig(method="proma"),
    "its baselines": [LLMConfig(method="grpo"), LLMConfig(method="reinforce")],
    "from local copies": LLMConfig(method="proma", model="models/Qwen3-0.6B", data="data/gsm8k"),
    "a base model, after four solved problems": LLMConfig(method="proma", model="Qwen/Qwen3-0.6B-Base", few_shot=4),
    "is everything in place? (minutes)": LLMConfig(method="proma", steps=2, prompts=8, max_new_tokens=256),
}
for purpose, configs in recipe.items():
    print(f"# {purpose}")
    for one in configs if isinstance(configs, list) else [configs]:
        print(run_command(to_json(one)))

# %% [markdown]
# - `--evaluate test` scores the finished run on the test problems, which are read for nothing else.
# - `--resume` goes on after an interruption, with the same results.
# - Rollouts come from vLLM where it is installed next to a GPU, and from transformers where it is not
#   (`--sampler huggingface`). With transformers, sampling will take most of the time.
# - Three methods, several seeds: `proma-bench ladder --tiers llm --seeds 3`. Ten pairs are what a verdict asks for.
#
# On a CPU you can put any small instruction-tuned model in place of the stand-in, by `--model DIRECTORY`, and a task
# that it half knows in place of GSM8K.
#
# ## Exercises
#
# ### 1. The strict score
#
# Return the number (a `float`) of the last `#### number` within the last 300 characters of a completion, or `None`.
# Commas separate thousands; a full stop at the end is no part of the number. The check throws at you what models
# write.


# %%
def strict(completion): ...


check.strict(strict)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import re
#
#
# def strict(completion):
#     found = re.findall(r"#### (-?[0-9.,]+)", completion[-300:])
#     try:
#         return float(found[-1].replace(",", "").rstrip(".")) if found else None
#     except ValueError:  # dots and commas alone
#         return None
#
#
# check.strict(strict)
# ```
# </details>

# %% [markdown]
# ### 2. Log-probs without the logits
#
# From hidden states `hidden [N, width]`, the head's weight `head [V, width]` and `actions [N]`, return the log-prob of
# every action, `[N]`, and never hold more than `rows` rows of logits. The check measures the largest tensor that you
# make.


# %%
def log_probs(hidden, head, actions, rows): ...


check.log_probs(log_probs)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def log_probs(hidden, head, actions, rows):
#     parts = []
#     for states, chosen in zip(hidden.split(rows), actions.split(rows), strict=True):
#         logits = states @ head.T
#         parts.append(logits.gather(1, chosen[:, None]).squeeze(1) - logits.logsumexp(dim=1))
#     return torch.cat(parts)
#
#
# check.log_probs(log_probs)
# ```
# </details>

# %% [markdown]
# ### 3. Is this run sound?
#
# Given the metrics of a step, return the set of what is wrong with it: `"cut"` if more than a tenth of its sequences
# were cut off, `"sampler"` if `sampler_gap` is above `largest_gap`, `"silent"` if nothing at all was learned from it.


# %%
def problems(step, largest_gap): ...


check.problems(problems)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def problems(step, largest_gap):
#     found = {
#         "cut": step["cut"] > step["sequences"] / 10,
#         "sampler": step["sampler_gap"] > largest_gap,
#         "silent": step["grad_norm"] == 0,
#     }
#     return {name for name, is_wrong in found.items() if is_wrong}
#
#
# check.problems(problems)
# ```
# </details>
#
# Next: [7 · Your own projection](7_your_own_projection.ipynb), where a machine tries to break a projection.
