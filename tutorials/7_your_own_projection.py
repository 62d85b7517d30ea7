# %% [markdown]
# # 7 · Your own projection
#
# *How do you know that a projection is right?*
#
# - **You should know**: lesson 2; what a unit test is.
# - **After this lesson you can** name the promises of a projection, let a machine look for a counterexample, read a
#   small one, and test a projection of your own in one line.
# - **Time**: about 40 minutes with the exercises (an estimate). The computer needs about one of them.
#
# Say that you have an idea for another projection, a cheaper one perhaps. Before you spend GPU hours on it, let a
# machine try to break it. A projection here is any function `fn(running [*W], seq_grads [B, *W]) -> [*W]`, and the
# package knows what such a function promises. Symbols are in the [glossary](../docs/glossary.md).

# %%
import subprocess
import sys

import torch
from checks import Outcome
from checks import lesson7 as check
from figures import lesson7 as draw
from figures.tables import table
from hypothesis import find, settings
from IPython.display import Markdown, display

from proma_bench import project, testing

torch.set_num_threads(1)

# %% [markdown]
# ## A projection that looks right
#
# Here is one: normalise the gradients, then subtract the components along all of them at once. There is no loop, and no
# matrix to invert.
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
# Test it on an example first. The result should have no component along any gradient, and
# `testing.assert_orthogonal_to` checks that in one line.

# %%
axes_of_three = torch.eye(3, dtype=torch.float64)[:2]
testing.assert_orthogonal_to(all_at_once, torch.tensor([1.0, 2.0, 3.0]).double(), axes_of_three)
print("passed")

# %% [markdown]
# It passes, and so does every example with perpendicular gradients.
#
# ## Promises, and a machine that tries to break them
#
# Each promise is a function of `proma_bench.testing`, with one sentence that defines it:

# %%
sentences = {promise: promise.__doc__.split("\n\n")[0] for promise in testing.EXACT_INVARIANTS}
table(
    ["promise", ""],
    [[f"`{promise.__name__}`", " ".join(sentence.split())] for promise, sentence in sentences.items()],
    numbers=False,
)

# %% [markdown]
# `examine_projection` tries all of them on difficult inputs that Hypothesis draws: of low rank, with zeros, with
# repeated samples, and with scales from $10^{-10}$ to $10^{10}$.
#
# **Your guess**: how many of the eleven promises does `all_at_once` break? (a) none, (b) one to five, (c) six or more.

# %%
guess = ...
EXAMPLES = 200


def show(findings):
    table(
        ["", "promise", "how it is broken"],
        [["holds" if one.holds else "**broken**", one.name, one.failure or ""] for one in findings],
        numbers=False,
    )


findings = testing.examine_projection(all_at_once, examples=EXAMPLES)
show(findings)
broken = sum(not finding.holds for finding in findings)
assert 1 <= broken <= 5
Outcome(guess, "b", f"It breaks {broken} of {len(findings)}.")

# %% [markdown]
# *holds* means: not broken on these inputs. Gradients that are nearly dependent, but not quite, are not among them.
# Those are drawn by `testing.projection_problems(near_duplicates=True)`.
#
# Hypothesis does not stop at the first input that fails. It **shrinks** it: fewer sequences, fewer parameters, less
# structure, as long as it still fails. (The numbers come from torch and do not shrink. The package rounds them if the
# input still fails after that.) What is left is a counterexample that is small enough to think about:

# %%
worst = next(finding for finding in findings if finding.name == "orthogonal to")
display(Markdown(f"This breaks *{worst.name}*:"))
print(check.describe(all_at_once, worst.counterexample))

# %% [markdown]
# With one parameter, all gradients lie on one line. Both sequences see the same component, and it is subtracted twice.
#
# ## Draw it
#
# To draw a picture, ask for two parameters and two different sequences. `find` looks for a small input of a strategy
# that has some property. Here the property is *so much is subtracted that the result points backwards*.


# %%
def overshoots(problem):
    result = all_at_once(problem.running, problem.seq_grads)
    return result @ problem.running < -0.5 * problem.running @ problem.running


drawn = testing.projection_problems(shape=(2,), sequences=2, rank=2, scale=1.0, repeats=False)
problem = find(drawn, overshoots, settings=settings(derandomize=True, database=None, max_examples=2000))
A, S = problem.running / problem.running.norm(), problem.seq_grads

perpendicular = torch.tensor([[0.6, 0.8], [-0.8, 0.6]]).double()
draw.all_at_once(
    {
        "the example: perpendicular": (torch.tensor([0.3, 0.95]).double(), perpendicular),
        "what Hypothesis found": (A, S),
    }
)
units = S / S.norm(dim=1, keepdim=True)
assert all_at_once(A, S) @ A < 0
display(
    Markdown(
        f"The gradients have a cosine of {units[0] @ units[1]:.2f}. What they have in common is removed twice, and the "
        f"result points backwards. It is {all_at_once(A, S).norm() / A.norm():.2f} times as long as $A$."
    )
)

# %% [markdown]
# Now you see what is wrong, and how to mend it: the second subtraction must know what the first one has taken. If you
# do them one after another, you have the paper's iterative method. If you solve for all of them together, you have the
# exact one (lesson 2).
#
# ## Inexact is not wrong
#
# The iterative method is not an exact projection either, and it promises less. Does it keep what it promises?


# %%
def two_sweeps(running, seq_grads):
    return project(running, seq_grads, method="iterative", sweeps=2)


exact = testing.examine_projection(two_sweeps, examples=EXAMPLES)
inexact = testing.examine_projection(two_sweeps, exact=False, examples=EXAMPLES)
for kind, found in {"an exact": exact, "an inexact": inexact}.items():
    broken = [finding.name for finding in found if not finding.holds]
    names = f" ({', '.join(broken)})" if broken else ""
    display(Markdown(f"Of the {len(found)} promises of {kind} projection it breaks {len(broken)}{names}."))
assert all(finding.holds for finding in inexact) and not all(finding.holds for finding in exact)

# %% [markdown]
# ## In your own project
#
# In a test you need one line: `check_projection(my_projection)`, or `check_projection(my_projection, exact=False)`. It
# raises an error at the first broken promise, with the small counterexample in it. From a shell, without a test, it is
# `proma-bench verify package.module:function`:

# %%
arguments = ["verify", "proma_bench.projection.literal:project"]
verified = subprocess.run([sys.executable, "-m", "proma_bench", *arguments], capture_output=True, text=True)
assert verified.returncode == 0, verified.stderr
print(verified.stdout)

# %% [markdown]
# You can use the strategies, too. `sequence_gradients(rank=2, scale=1e-6)` draws gradients of rank two and that size,
# and `projection_problems` adds a running gradient and advantages, as you saw above.
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
