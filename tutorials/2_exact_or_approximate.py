# %% [markdown]
# # 2 · Exact, approximate, and why it is the same price
#
# *Does it pay to project approximately?*
#
# An exact projection sounds expensive, and the paper's practical choice is an approximation: subtract the
# component along one sequence after another, twice over. You will compute the projection in four ways, find that
# they give two results and that a matrix of $B \times B$ numbers is enough for both, and end with the form in which
# PROMA runs: an ordinary policy gradient with *corrected advantages*.

# %%
import dataclasses
import statistics
import time

import matplotlib.pyplot as plt
import torch
from checks import lesson2 as check
from IPython.display import Markdown, display

from proma_bench import ProjectionConfig, accumulate, corrected_advantages, project
from proma_bench.learning.advantages import group_advantages
from proma_bench.tiers.bandit.config import BanditConfig
from proma_bench.tiers.bandit.tier import Bandit

plt.style.use("lessons.mplstyle")
torch.set_num_threads(1)

# %% [markdown]
# ## Gradients to work with
#
# From the digits bandit of lesson 1: one microbatch of eight sequences, and the running gradient that 64 earlier
# sequences left, both for one weight matrix of the policy. The literal way to get the gradients is one backward
# pass per sequence. (Lesson 4 shows how to do without.)


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
# Stack the gradients, make an orthonormal basis $Q$ of their span, subtract $Q Q^\top A$:


# %%
def by_qr(A, S):
    Q = torch.linalg.qr(S.flatten(1).T).Q  # [4096, B]
    return (A.flatten() - Q @ (Q.T @ A.flatten())).view_as(A)


# %% [markdown]
# ## 2. The Gram matrix
#
# What is removed is a combination $\sum_i w_i S_i$. Demand that the rest is orthogonal to every $S_j$:
#
# $$\langle A - \sum_i w_i S_i,\; S_j \rangle = 0 \quad\Longleftrightarrow\quad K w = c$$
#
# $$K_{ij} = \langle S_i, S_j\rangle, \qquad c_j = \langle A, S_j \rangle$$
#
# $K$ may be singular, because samples repeat. Hence a pseudo-inverse, with a cut below which a direction counts as not
# there (`rtol`; here torch's own, about rounding).


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
# The paper's practical choice. Normalise, then subtract the component along one gradient after another, in a few
# **sweeps**:


# %%
def one_after_another(A, S, sweeps=2):
    units = S / S.flatten(1).norm(dim=1)[:, None, None]
    for _sweep in range(sweeps):
        for unit in units:
            A = A - (A * unit).sum() * unit
    return A


# %% [markdown]
# Watch it in two dimensions. Each subtraction lands on the line that is perpendicular to one of the gradients;
# the exact result is where both lines meet.

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
for axes, degrees in zip(panels, [75, 25], strict=True):
    angles = torch.deg2rad(torch.tensor([100.0, 100.0 + degrees]))
    pair = torch.stack([angles.cos(), angles.sin()], dim=1)
    path = [torch.tensor([0.9, 1.0])]
    for number in range(6):
        path.append(path[-1] - (path[-1] @ pair[number % 2]) * pair[number % 2])
    for number, (unit, dashes) in enumerate(zip(pair, ["--", ":"], strict=True), start=1):
        line = 3 * torch.stack([-unit[1], unit[0]])
        label = f"perpendicular to $S_{number}$"
        axes.plot([-line[0], line[0]], [-line[1], line[1]], linestyle=dashes, marker="", color="0.45", label=label)
    axes.plot(*torch.stack(path).T, color="black", linestyle="-", marker="o", label="one after another")
    axes.plot(0, 0, "X", color="#D55E00", markersize=11, linestyle="", label="exact")
    axes.annotate("$A$", path[0] + 0.05)
    axes.set(xlim=(-0.5, 1.5), ylim=(-0.4, 1.25), aspect="equal", title=f"{degrees}° between the gradients, 3 sweeps")
    axes.set(xlabel=r"$\theta_1$")
panels[0].set(ylabel=r"$\theta_2$")
panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## 4. The same, without touching A
#
# After $k-1$ subtractions the rest is $A - \sum_i w_i S_i$ with some weights, and the next component depends on
# $K$ and $c$ alone. In the row of sequence $i$, sequences before it have new weights and those after it old ones:
#
# $$\mathrm{tril}(\hat K)\, w_\text{new} = \hat c - \mathrm{triu}(\hat K, 1)\, w_\text{old}$$
#
# That is **Gauss–Seidel** on $\hat K \hat w = \hat c$, the hats for normalised gradients. A sweep is one
# triangular solve.


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
lines = [f"| {name} | {apart(*pair):.0e} |" for name, pair in pairs.items()]
display(Markdown("\n".join(["| | distance, in norms of $A$ |", "|---|---:|", *lines])))

# %% [markdown]
# Four ways, two results. Only the last row is a real difference. (QR as written needs independent gradients,
# which these eight are. Exercise 3 is about those that are not.)
#
# ## How large is it?
#
# That depends on how alike the gradients of a microbatch are. Take two microbatches from the same batch: one of
# eight sequences from shuffled groups, and one that *is* a group, eight samples of the same image.

# %%
SWEEPS = 16
group = batch.microbatches(8, None)[20]
kinds = {"shuffled groups": S, "one group": sequence_gradients(policy, group)}


def unit_gram(S):
    rows = torch.nn.functional.normalize(S.flatten(1), dim=1)
    return rows @ rows.T


def rank(S):
    return int((torch.linalg.eigvalsh(unit_gram(S)) > 1e-10).sum())


figure, axes = plt.subplots(figsize=(7, 3.6))
axes.set_prop_cycle(plt.rcParams["axes.prop_cycle"])
for name, gradients in kinds.items():
    exact = project(A, gradients)
    errors = [apart(project(A, gradients, method="iterative", sweeps=n), exact) for n in range(1, SWEEPS + 1)]
    axes.semilogy(range(1, SWEEPS + 1), errors, label=f"{name}: rank {rank(gradients)} of 8")
axes.set(xlabel="sweeps", ylabel="distance from exact,\nin norms of $A$", title="what an approximation leaves in")
axes.legend()
plt.show()


def rate(S):
    """By how much a sweep shrinks the slowest part of the error: the iteration matrix's largest eigenvalue below 1."""
    K = unit_gram(S)
    sizes = torch.linalg.eigvals(torch.linalg.solve(K.tril(), K.triu(1))).abs()
    return float(sizes[sizes < 1 - 1e-9].max())


display(
    Markdown(
        "In the long run a sweep shrinks the error to "
        + " and to ".join(f"{rate(gradients):.0%} ({name})" for name, gradients in kinds.items())
        + " of what it was."
    )
)

# %% [markdown]
# The group has repeated samples and still converges faster here: a repeat subtracts along the same line once more, and
# that does no harm. Slow are gradients that are nearly alike but not the same, as in the picture on the right above.
#
# ## What does it cost?
#
# Now the price, on random gradients of a $512 \times 256$ layer, for growing $B$. The unit is the least that one can
# do with gradients written out, the weighted sum $\sum_i a_i S_i$. (It is not the price of a training step: a backward
# pass costs far more. Lesson 4 does without writing out.) Contenders take turns, and each point is a median of ratios.

# %%
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
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


generator = torch.Generator().manual_seed(0)
cost = {name: [] for name in CONTENDERS}
for B in BATCHES:
    layer = [torch.randn(*shape, generator=generator) for shape in [(512, 256), (B, 512, 256), (B,)]]  # A, S, a
    ratios = {name: [] for name in CONTENDERS}
    for _round in range(ROUNDS):
        unit = seconds(plain, *layer)
        for name, contender in CONTENDERS.items():
            ratios[name].append(seconds(contender, *layer) / unit)
    for name in CONTENDERS:
        cost[name].append(statistics.median(ratios[name]))

figure, axes = plt.subplots(figsize=(7, 3.8))
for name, values in cost.items():
    axes.loglog(BATCHES, values, label=name)
axes.set(xlabel="sequences in a microbatch, B", ylabel="time, in weighted\nsums of gradients")
axes.set_xticks(BATCHES, BATCHES)
axes.set_yticks([1, 2, 5, 10, 20, 50, 100], [1, 2, 5, 10, 20, 50, 100])
axes.minorticks_off()
axes.legend()
plt.show()
last = {name: values[-1] for name, values in cost.items()}
display(
    Markdown(
        f"At B = {BATCHES[-1]} on this machine: {last['QR']:.0f} weighted sums for QR and "
        f"{last['one after another, 2 sweeps']:.0f} for the loop; in B dimensions {last['in B dimensions, exact']:.1f} "
        f"(exact) and {last['in B dimensions, 2 sweeps']:.1f} (two sweeps)."
    )
)

# %% [markdown]
# QR and the loop pass over $A$ and $S$ again and again. For many sequences QR is the dear way and the loop the cheaper
# one; for few it may be the other way round. In $B$ dimensions exact and approximate share everything that is large,
# the pass over the gradients and the weighted sum. They differ in what they do with $B \times B$ numbers and cost
# nearly the same. So price does not decide between them, and what is left is a question of behaviour.
#
# ## Corrected advantages, step by step
#
# Write $g = \sum_i a_i S_i$ for the microbatch's own gradient. The shrinkage $\sigma$ between 0 and 1 says how much of
# the component is removed (1: all of it), and $\rho$ is the clamp. One step of PROMA is
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
checks = {
    "`corrected_advantages`": float((u - corrected_advantages(K, c, a, config)).abs().max()),
    "the literal step on whole tensors": apart(A + torch.tensordot(u, S, 1), literal),
}
lines = [f"| {name} | {difference:.0e} |" for name, difference in checks.items()]
display(Markdown("\n".join(["| my corrected advantages against | difference |", "|---|---:|", *lines])))

# %%
free = my_corrected_advantages(K, c, a, beta=float("inf"))
figure, axes = plt.subplots(figsize=(7.5, 3.4))
bars = {
    "advantage": (a, "", "0.75"),
    "corrected, clamp 0.5": (u, "//", "#9EC9E2"),
    "corrected, no clamp": (free, "..", "#F3C3A5"),
}
for offset, (name, (values, hatch, shade)) in zip([-0.27, 0, 0.27], bars.items(), strict=True):
    axes.bar(torch.arange(len(a)) + offset, values, 0.26, label=name, hatch=hatch, color=shade, edgecolor="black")
axes.axhline(0, color="black", linewidth=0.8)
axes.set(xlabel="sequence of the microbatch", ylabel="advantage", xticks=range(len(a)))
axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.2))
plt.show()
zero = int((a == 0).sum())
display(Markdown(f"{zero} of {len(a)} sequences have an advantage of zero, and a corrected one that is not."))

# %% [markdown]
# A sequence with zero advantage teaches nothing, but it still says which directions move the policy, so it still
# removes. That is why PROMA's backward pass is seeded with ones: advantages that were multiplied into the loss
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
