# %% [markdown]
# # 7 · Your own projection
#
# *How do you know that a projection is right?*
#
# You have an idea for another projection: a cheaper one, a robust one. Before you spend GPU hours on it, let a
# machine try to break it. A projection here is any function `fn(running [*W], seq_grads [B, *W]) -> [*W]`, and
# the package knows what such a function promises.

# %%
import subprocess
import sys

import matplotlib.pyplot as plt
import torch
from checks import lesson7 as check
from hypothesis import find, settings
from IPython.display import Markdown, display

from proma_bench import project, testing

plt.style.use("lessons.mplstyle")
torch.set_num_threads(1)

# %% [markdown]
# ## A projection that looks right
#
# Here is one: normalise the gradients, then subtract the components along all of them at once. No loop, no matrix
# to invert.
#
# $$A \;\leftarrow\; A - \sum_i \langle A, \hat S_i \rangle\, \hat S_i$$


# %%
def all_at_once(running, seq_grads):
    rows = seq_grads.reshape(len(seq_grads), -1)
    norms = rows.norm(dim=1, keepdim=True)
    units = rows / torch.where(norms > 0, norms, 1.0)
    overlaps = units @ running.flatten()
    return running - (overlaps @ units).reshape(running.shape)


# %% [markdown]
# Test it the way one tests in a hurry: on an example. The result should have no component along any gradient, and
# `testing.assert_orthogonal_to` says so in one line.

# %%
axes_of_three = torch.eye(3, dtype=torch.float64)[:2]
testing.assert_orthogonal_to(all_at_once, torch.tensor([1.0, 2.0, 3.0]).double(), axes_of_three)
print("passed")

# %% [markdown]
# Passed! Every example with perpendicular gradients will.
#
# ## Promises, and a machine that tries to break them
#
# Each promise is a named function of `proma_bench.testing`, with one sentence that defines it:

# %%
lines = [
    f"| `{promise.__name__}` | {' '.join(promise.__doc__.split(chr(10) * 2)[0].split())} |"
    for promise in testing.EXACT_INVARIANTS
]
display(Markdown("\n".join(["| promise | |", "|---|---|", *lines])))

# %% [markdown]
# `examine_projection` tries all of them on inputs that Hypothesis draws to hurt: of low rank, with zeros,
# repeated samples, and scales from $10^{-10}$ to $10^{10}$.

# %%
EXAMPLES = 200


def show(findings):
    lines = [
        f"| {'holds' if finding.holds else '**broken**'} | {finding.name} | {finding.failure or ''} |"
        for finding in findings
    ]
    display(Markdown("\n".join(["| | promise | how it is broken |", "|---|---|---|", *lines])))


findings = testing.examine_projection(all_at_once, examples=EXAMPLES)
show(findings)

# %% [markdown]
# *holds* means: not broken on these inputs. Gradients that are nearly dependent, but not quite, are not among them;
# `testing.projection_problems(near_duplicates=True)` draws such.
#
# Hypothesis does not stop at the first input that fails. It **shrinks** it: fewer sequences, fewer parameters, less
# structure, as long as it still fails. (The numbers come from torch and do not shrink; the package rounds them where
# the failure survives that.) What is left is a counterexample that you can think about:

# %%
worst = next(finding for finding in findings if finding.name == "orthogonal to")
display(Markdown(f"This breaks *{worst.name}*:"))
print(check.describe(all_at_once, worst.counterexample))

# %% [markdown]
# With one parameter, all gradients lie on one line. Both sequences see the same, and it is subtracted twice.
#
# ## Draw it
#
# One parameter makes a dull picture. Ask for two parameters and two different sequences instead: `find` looks for a
# small input of a strategy that has some property, here *so much is subtracted that the result points backwards*.


# %%
def overshoots(problem):
    result = all_at_once(problem.running, problem.seq_grads)
    return result @ problem.running < -0.5 * problem.running @ problem.running


drawn = testing.projection_problems(shape=(2,), sequences=2, rank=2, scale=1.0, repeats=False)
problem = find(drawn, overshoots, settings=settings(derandomize=True, database=None, max_examples=2000))
A, S = problem.running / problem.running.norm(), problem.seq_grads


def arrow(axes, start, vector, label, colour, dashes, place=1.0):
    """An arrow with its name beside the tip, or at another place along it."""
    tip = (float(start[0] + vector[0]), float(start[1] + vector[1]))
    style = {"arrowstyle": "-|>", "color": colour, "linestyle": dashes, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", tip, (float(start[0]), float(start[1])), arrowprops=style)
    at = start + place * vector + 0.09 * vector / vector.norm()
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    axes.annotate(label, at, color=colour, ha="center", va="center", bbox=box)


def draw(axes, A, S, title):
    units = S / S.norm(dim=1, keepdim=True)
    where = A
    for number, (unit, order) in enumerate(zip(units, ["first", "second"], strict=True), start=1):
        arrow(axes, torch.zeros(2), unit, f"$S_{number}$", "#0072B2", "dotted")
        removed = -(A @ unit) * unit
        arrow(axes, where, removed, order, "0.4", "dashdot", place=0.4)
        where = where + removed
    arrow(axes, torch.zeros(2), A, "$A$", "black", "solid")
    if where.norm() > 0.01:
        arrow(axes, torch.zeros(2), where, "result", "#D55E00", "dashed")
    axes.plot(0, 0, "X", color="black", markersize=9, linestyle="", label="what a projection leaves")
    axes.set(xlabel=r"$\theta_1$", aspect="equal", xlim=(-1.2, 1.2), ylim=(-0.9, 1.25), title=title)


figure, panels = plt.subplots(1, 2, figsize=(9.5, 4.4), sharey=True)
perpendicular = torch.tensor([[0.6, 0.8], [-0.8, 0.6]]).double()
draw(panels[0], torch.tensor([0.3, 0.95]).double(), perpendicular, "the example: perpendicular")
draw(panels[1], A, S, "what Hypothesis found")
panels[0].set(ylabel=r"$\theta_2$")
panels[0].legend(loc="lower left")
plt.show()

units = S / S.norm(dim=1, keepdim=True)
display(
    Markdown(
        f"The gradients have a cosine of {units[0] @ units[1]:.2f}. Both ask for much the same component of $A$ to "
        f"go, it goes twice, and the step comes out backwards, {all_at_once(A, S).norm() / A.norm():.2f} times as long."
    )
)

# %% [markdown]
# You see at once what is wrong, and what would mend it: the second subtraction must know what the first one has
# taken. Do them one after another and it is the paper's iterative method; solve for all of them together and it
# is the exact one. (Lesson 2.)
#
# ## Inexact is not wrong
#
# The iterative method is no exact projection either, and does not claim to be. It promises less. Does it keep that?


# %%
def two_sweeps(running, seq_grads):
    return project(running, seq_grads, method="iterative", sweeps=2)


exact = testing.examine_projection(two_sweeps, examples=EXAMPLES)
inexact = testing.examine_projection(two_sweeps, exact=False, examples=EXAMPLES)
for kind, found in {"an exact": exact, "an inexact": inexact}.items():
    broken = [finding.name for finding in found if not finding.holds]
    names = f" ({', '.join(broken)})" if broken else ""
    display(Markdown(f"Of the {len(found)} promises of {kind} projection it breaks {len(broken)}{names}."))

# %% [markdown]
# ## In your own project
#
# In a test, one line: `check_projection(my_projection)`, or `check_projection(my_projection, exact=False)`. It
# raises at the first broken promise, with the small counterexample in the error. From a shell, without writing a
# test, it is `proma-bench verify package.module:function`:

# %%
arguments = ["verify", "proma_bench.projection:project"]
print(subprocess.run([sys.executable, "-m", "proma_bench", *arguments], capture_output=True, text=True).stdout)

# %% [markdown]
# The strategies are yours, too. `sequence_gradients(rank=2, scale=1e-6)` draws gradients of rank two and that
# size, and `projection_problems` adds a running gradient and advantages, as you saw above.
#
# ## Exercises
#
# ### 1. Mend it
#
# Write a projection that keeps every promise, without `project`. Zeros, repeated samples and scales of $10^{10}$
# included.


# %%
def my_projection(running, seq_grads):
    rows = seq_grads.reshape(len(seq_grads), -1)
    ...


check.own_projection(my_projection)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_projection(running, seq_grads):
#     rows = seq_grads.reshape(len(seq_grads), -1)
#     norms = rows.norm(dim=1, keepdim=True)
#     units = rows / torch.where(norms > 0, norms, 1.0)
#     _, singular, basis = torch.linalg.svd(units, full_matrices=False)
#     basis = basis[singular > 1e-7]  # orthonormal rows that span the gradients
#     return running - (basis.T @ (basis @ running.flatten())).reshape(running.shape)
#
#
# check.own_projection(my_projection)
# ```
#
# </details>
#
# ### 2. By hand
#
# One sweep of *one after another* depends on the order of the sequences. Find an input that shows it, with two
# parameters and two sequences: set `running` to two numbers and `seq_grads` to two rows of two.

# %%
running = ...
seq_grads = ...
check.order_matters(running, seq_grads)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# running = torch.tensor([1.0, 2.0])
# seq_grads = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
# check.order_matters(running, seq_grads)
# ```
#
# </details>
#
# ### 3. A promise of your own
#
# An exact projection depends on the *span* of the gradients and on nothing else. So it should give the same for
# any other basis of that span. Return whether `fn` does, for one random mixture of the gradients.


# %%
def depends_on_span_alone(fn, running, seq_grads): ...


check.span_invariant(depends_on_span_alone)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def depends_on_span_alone(fn, running, seq_grads):
#     mixture = torch.linalg.qr(torch.randn(len(seq_grads), len(seq_grads), dtype=seq_grads.dtype)).Q
#     mixed = torch.tensordot(mixture, seq_grads, dims=1)
#     return torch.allclose(fn(running, seq_grads), fn(running, mixed))
#
#
# check.span_invariant(depends_on_span_alone)
# ```
#
# </details>
#
# If your own projection keeps its promises, `proma_bench.projection` is where it would go. Whether it learns is another
# question. Next: [8 · Your own update on the ladder](8_your_own_update_on_the_ladder.ipynb).
