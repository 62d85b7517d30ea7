# %% [markdown]
# # 2 · Exact, approximate, and what each costs
#
# *Does it pay to project approximately?*
#
# - **You should know**: lessons 0 and 1; systems of linear equations, and what QR is for.
# - **After this lesson you can** project in four ways, say how far the approximate way is from the exact one, and
#   write PROMA's step as a policy gradient with corrected advantages.
# - **Time**: about 45 minutes with the exercises (an estimate). The computer needs less than two of them.
#
# An exact projection sounds expensive. The paper's practical choice is an approximation: subtract the component along
# one sequence after another, and do it twice. In this lesson you compute the projection in four ways. They give two
# results, and a matrix of $B \times B$ numbers is enough for both. At the end you have the form in which PROMA runs:
# an ordinary policy gradient with *corrected advantages*. Symbols are in the [glossary](../docs/glossary.md).

# %%
import dataclasses
import time

import torch
from checks import Outcome
from checks import lesson2 as check
from figures import lesson2 as draw
from figures.tables import table
from IPython.display import Markdown, display

from proma_bench import ProjectionConfig, accumulate, corrected_advantages, project
from proma_bench.learning.advantages import group_advantages
from proma_bench.tiers.bandit.config import BanditConfig
from proma_bench.tiers.bandit.tier import Bandit

torch.set_num_threads(1)

# %% [markdown]
# ## Gradients to work with
#
# You need one microbatch of eight sequences, and the running gradient that 64 earlier sequences left. Take both from
# the digits bandit of lesson 1, for one weight matrix of the policy. The literal way to get the gradients is one
# backward pass for each sequence. (Lesson 4 shows a cheaper way.)


# %%
def sequence_gradients(policy, batch):
    """S [B, 64, 64] of the second layer's weight."""
    weight = policy.layers[2].weight
    log_probs = policy.on(batch).log_prob(batch.actions)
    return torch.stack([torch.autograd.grad(value, weight, retain_graph=True)[0] for value in log_probs]).double()


bandit = Bandit(BanditConfig(initial_states=64))
streams = {name: torch.Generator().manual_seed(7) for name in ("weights", "initial_states", "actions", "order")}
policy = bandit.policy(streams["weights"])
with torch.no_grad():
    policy.layers[4].weight *= 4  # a policy that has already made up its mind a little
batch = bandit.sample(policy, streams)
batch = dataclasses.replace(batch, advantages=group_advantages(batch.rewards, 8))  # 8 samples per image
microbatches = batch.microbatches(8, streams["order"])

A = sum(torch.tensordot(m.advantages.double(), sequence_gradients(policy, m), 1) for m in microbatches[:8])
S, a = sequence_gradients(policy, microbatches[8]), microbatches[8].advantages.double()
display(Markdown(f"$A$ is {tuple(A.shape)}, $S$ is {tuple(S.shape)}; advantages: {[round(float(x), 2) for x in a]}"))

# %% [markdown]
# ## 1. QR, the literal way
#
# Stack the gradients, compute an orthonormal basis $Q$ of their span, and subtract $Q Q^\top A$:


# %%
def by_qr(A, S):
    Q = torch.linalg.qr(S.flatten(1).T).Q  # [4096, B]
    return (A.flatten() - Q @ (Q.T @ A.flatten())).view_as(A)


# %% [markdown]
# ## 2. The Gram matrix
#
# What is removed is a combination $\sum_i w_i S_i$. The rest must be orthogonal to every $S_j$:
#
# $$\langle A - \sum_i w_i S_i,\; S_j \rangle = 0 \quad\Longleftrightarrow\quad K w = c$$
#
# $$K_{ij} = \langle S_i, S_j\rangle, \qquad c_j = \langle A, S_j \rangle$$
#
# $K$ may be singular, because samples repeat. So use the pseudo-inverse $K^+$. It has a cut: a direction whose
# eigenvalue is below the cut counts as not there (`rtol`; here it is torch's own, about the size of rounding).


# %%
def gram_and_overlap(A, S):
    rows = S.flatten(1)
    return rows @ rows.T, rows @ A.flatten()


def by_gram(A, S):
    K, c = gram_and_overlap(A, S)
    w = torch.linalg.pinv(K, hermitian=True) @ c
    return A - torch.tensordot(w, S, 1)


# %% [markdown]
# ## 3. One after another
#
# This is the paper's practical choice. Normalise the gradients, then subtract the component along one after another,
# in a few **sweeps**:


# %%
def one_after_another(A, S, sweeps=2):
    units = S / S.flatten(1).norm(dim=1)[:, None, None]
    for _sweep in range(sweeps):
        for unit in units:
            A = A - (A * unit).sum() * unit
    return A


# %% [markdown]
# Here it is in two dimensions. Each subtraction lands on the line that is perpendicular to one of the gradients.
# The exact result is the point where both lines meet.

# %%
draw.one_after_another(angles=[75, 25])

# %% [markdown]
# ## 4. The same, without touching A
#
# At any time the rest is $A - \sum_i w_i S_i$ with some weights $w$. So the next component depends on $K$ and $c$
# alone. In the row of sequence $i$, the sequences before it have new weights already, and those after it still have old
# ones:
#
# $$\mathrm{tril}(\hat K)\, w_\text{new} = \hat c - \mathrm{triu}(\hat K, 1)\, w_\text{old}$$
#
# This is the **Gauss–Seidel** method for $\hat K \hat w = \hat c$. (A hat says: of normalised gradients.) A sweep is
# one triangular solve.


# %%
def by_gauss_seidel(A, S, sweeps=2):
    units = S / S.flatten(1).norm(dim=1)[:, None, None]
    K, c = gram_and_overlap(A, units)
    w = torch.zeros_like(c)
    for _sweep in range(sweeps):
        right = c - K.triu(1) @ w
        w = torch.linalg.solve_triangular(K.tril(), right.unsqueeze(1), upper=False).squeeze(1)
    return A - torch.tensordot(w, units, 1)


def apart(first, second):
    """Their distance, in norms of A."""
    return float((first - second).norm() / A.norm())


pairs = {
    "QR and Gram matrix": (by_qr(A, S), by_gram(A, S)),
    "the loop and Gauss–Seidel": (one_after_another(A, S), by_gauss_seidel(A, S)),
    "the loop and `project(method='iterative')`": (one_after_another(A, S), project(A, S, method="iterative")),
    "Gram matrix and `project(method='exact')`": (by_gram(A, S), project(A, S)),
    "exact and two sweeps": (by_gram(A, S), one_after_another(A, S)),
}
distances = {name: apart(*pair) for name, pair in pairs.items()}
assert max(list(distances.values())[:4]) < 1e-10 < 1e-3 < distances["exact and two sweeps"]
table(["", "distance, in norms of $A$"], [[name, f"{distance:.0e}"] for name, distance in distances.items()])

# %% [markdown]
# Four ways, two results: only the last row is more than rounding. (QR as written needs independent gradients, and
# these eight are. Exercise 3 is about gradients that are not.)
#
# ## How large is it?
#
# That depends on how alike the gradients of a microbatch are. Take two microbatches from the same batch. One has
# eight sequences from shuffled groups. The other *is* a group: eight samples of the same image, some of them equal.
#
# **Your guess**: which one needs more sweeps? (a) the shuffled one, (b) the one with repeated samples.

# %%
guess = ...
SWEEPS = 16
group = batch.microbatches(8, None)[20]
kinds = {"shuffled groups": S, "one group": sequence_gradients(policy, group)}


def unit_gram(S):
    rows = torch.nn.functional.normalize(S.flatten(1), dim=1)
    return rows @ rows.T


def rank(S):
    return int((torch.linalg.eigvalsh(unit_gram(S)) > 1e-10).sum())


curves = {}
for name, gradients in kinds.items():
    exact = project(A, gradients)
    errors = [apart(project(A, gradients, method="iterative", sweeps=n), exact) for n in range(1, SWEEPS + 1)]
    curves[f"{name}: rank {rank(gradients)} of 8"] = errors
draw.errors(curves)


def rate(S):
    """By how much a sweep shrinks the slowest part of the error: the iteration matrix's largest eigenvalue below 1."""
    K = unit_gram(S)
    sizes = torch.linalg.eigvals(torch.linalg.solve(K.tril(), K.triu(1))).abs()
    return float(sizes[sizes < 1 - 1e-9].max())


slow = {name: rate(gradients) for name, gradients in kinds.items()}
assert rank(kinds["one group"]) < 8 == rank(S) and slow["one group"] < slow["shuffled groups"]
Outcome(
    guess,
    "a",
    "In the long run a sweep shrinks the error to "
    + " and to ".join(f"{shrinks:.0%} ({name})" for name, shrinks in slow.items())
    + " of what it was.",
)

# %% [markdown]
# The group has repeated samples, and still it converges faster here. A repeated sample subtracts along the same line
# once more, which does no harm. What makes it slow is gradients that are nearly alike but not equal, as in the right
# half of the picture above.
#
# ## What does it cost?
#
# Now measure the time, on random gradients of a $512 \times 256$ layer, for growing $B$. The unit is the least that you
# can do with gradients that are written out, the weighted sum $\sum_i a_i S_i$. (This is not the time of a training
# step, because a backward pass costs far more. And lesson 4 shows how not to write gradients out.) The four ways take
# turns, and each point is the shortest of several times. (The time is that of the processor, so other programs hardly
# matter.)
#
# **Your guess**: at $B = 32$, which is slowest? (a) QR, (b) the loop, (c) exact in $B$ dimensions, (d) two sweeps
# there.

# %%
guess = ...
ROUNDS = 15
BATCHES = [1, 2, 4, 8, 16, 32]


def plain(A, S, a):
    return A + torch.tensordot(a, S, 1)


def in_b_dimensions(A, S, a, config):
    """One pass for K and c, then one weighted sum."""
    K, c = gram_and_overlap(A, S)
    return plain(A, S, corrected_advantages(K, c, a, config).to(S.dtype))


CONTENDERS = {
    "QR": lambda A, S, a: plain(by_qr(A, S), S, a),
    "one after another, 2 sweeps": lambda A, S, a: plain(one_after_another(A, S), S, a),
    "in B dimensions, exact": lambda A, S, a: in_b_dimensions(A, S, a, ProjectionConfig("exact")),
    "in B dimensions, 2 sweeps": lambda A, S, a: in_b_dimensions(A, S, a, ProjectionConfig("iterative")),
}


def seconds(function, *arguments):
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


generator = torch.Generator().manual_seed(0)
cost = {name: [] for name in CONTENDERS}
for B in BATCHES:
    layer = [torch.randn(*shape, generator=generator) for shape in [(512, 256), (B, 512, 256), (B,)]]  # A, S, a
    shortest = dict.fromkeys(["the sum", *CONTENDERS], float("inf"))
    for _round in range(ROUNDS):
        for name, contender in {"the sum": plain, **CONTENDERS}.items():
            shortest[name] = min(shortest[name], seconds(contender, *layer))
    for name in CONTENDERS:
        cost[name].append(shortest[name] / shortest["the sum"])

draw.cost(cost, BATCHES)
slowest = max(CONTENDERS, key=lambda name: cost[name][-1])
words = [
    f"At B = {BATCHES[place]}: " + ", ".join(f"{name} {values[place]:.1f}" for name, values in cost.items()) + "."
    for place in (0, -1)
]
exact_last, sweeps_last = cost["in B dimensions, exact"][-1], cost["in B dimensions, 2 sweeps"][-1]
assert ROUNDS < 15 or (slowest == "QR" and exact_last < 2 * sweeps_last < cost["QR"][-1])
came_out = "abcd"[list(CONTENDERS).index(slowest)]
Outcome(guess, came_out, "In weighted sums of gradients, on this machine. " + " ".join(words))

# %% [markdown]
# QR and the loop pass over $A$ and $S$ again and again. For many sequences QR is the slowest way.
# In $B$ dimensions, exact and approximate share everything that is large: the pass over
# the gradients and the weighted sum. They differ only in what they do with $B \times B$ numbers. For the smallest $B$
# that difference shows, because there is little else to do. At $B = 32$ the exact way takes less than twice the time
# of the approximate one here, and in a training step, with its backward pass, the difference is far smaller
# ([the benchmarks](../benchmarks/README.md) measure it). So the price does not decide between them. What is left is a
# question of behaviour.
#
# ## Corrected advantages, step by step
#
# Write $g = \sum_i a_i S_i$ for the microbatch's own gradient. The shrinkage $\sigma$, between 0 and 1, says how much
# of the component is removed (1: all of it). The clamp is $\rho$. One step of PROMA is
#
# $$A \;\leftarrow\; A - \rho\,\sigma\, P_S A + g$$
#
# **1.** $P_S A = \sum_i w_i S_i$ with $w = K^+ c$. So the step is $A + \sum_i u_i S_i$ with $u = a -
# \rho\,\sigma\,w$.
#
# **2.** The clamp allows at most $\beta$ times the norm of the new gradient: $\rho = \min(1, \beta \|g\| / \|P_S
# A\|)$. Both norms are known from $K$: $\|P_S A\|^2 = w^\top K w$ and $\|g\|^2 = a^\top K a$.


# %%
def my_corrected_advantages(K, c, a, beta=0.5, sigma=1.0):
    w = torch.linalg.pinv(K, hermitian=True) @ c
    removed, added = (w @ K @ w).sqrt(), (a @ K @ a).sqrt()
    rho = min(1.0, float(beta * added / removed))
    return a - rho * sigma * w


K, c = gram_and_overlap(A, S)
u = my_corrected_advantages(K, c, a)
config = ProjectionConfig(method="exact", max_removed=0.5)
literal = accumulate(A, S, a, config)  # the formula on whole tensors, with a projection of A
differences = {
    "`corrected_advantages`": float((u - corrected_advantages(K, c, a, config)).abs().max()),
    "the literal step on whole tensors": apart(A + torch.tensordot(u, S, 1), literal),
}
assert max(differences.values()) < 1e-10
table(
    ["my corrected advantages against", "difference"],
    [[name, f"{difference:.0e}"] for name, difference in differences.items()],
)

# %%
free = my_corrected_advantages(K, c, a, beta=float("inf"))
draw.advantages({"advantage": a, "corrected, clamp 0.5": u, "corrected, no clamp": free})
zero = int((a == 0).sum())
assert zero > 0 and free[a == 0].abs().min() > 0
display(Markdown(f"{zero} of {len(a)} sequences have an advantage of zero, and a corrected one that is not."))

# %% [markdown]
# A sequence with zero advantage adds nothing, but it still says which directions move the policy, so it still
# removes. That is why PROMA's backward pass is seeded with ones. If the advantages were multiplied into the loss, they
# would erase these sequences.
#
# ## Exercises
#
# ### 1. A sweep
#
# Write one sweep in $B$ dimensions, for gradients of norm one: from the weights before it to the weights after
# it.


# %%
def sweep(K, c, w): ...


check.sweep(sweep)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def sweep(K, c, w):
#     right = c - K.triu(1) @ w
#     return torch.linalg.solve_triangular(K.tril(), right.unsqueeze(1), upper=False).squeeze(1)
#
#
# check.sweep(sweep)
# ```
#
# </details>
#
# ### 2. The norm of what is removed
#
# You have $K$ and $w$, and nothing else. What is $\|\sum_i w_i S_i\|$?


# %%
def removed_norm(K, w): ...


check.removed_norm(removed_norm)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def removed_norm(K, w):
#     return (w @ K @ w).sqrt()
#
#
# check.removed_norm(removed_norm)
# ```
#
# </details>
#
# ### 3. Samples repeat
#
# Return the weights $w$ for a $K$ of normalised gradients that may be singular. Try `torch.linalg.solve` first,
# and see what the check has to say. It lets Hypothesis try to break your answer, as lesson 7 will.


# %%
def weights(K, c): ...


check.weights(weights)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def weights(K, c):
#     return torch.linalg.pinv(K, hermitian=True, rtol=1e-12) @ c
#
#
# check.weights(weights)
# ```
#
# </details>
#
# Next: [3 · Episodes](3_episodes.ipynb), where one sequence is many actions.
