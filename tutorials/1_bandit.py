# %% [markdown]
# # 1 · A bandit you can solve on paper
#
# *How far does a step move a policy, and what does the projection take out of it?*
#
# In lesson 0 you saw the KL divergence as a valley. Here it becomes a matrix, for a policy that fits on paper:
# one context, three actions. Everything in the first half can be done with a pencil. Then the same happens on
# 1,437 handwritten digits.

# %%
import dataclasses
from fractions import Fraction

import matplotlib.pyplot as plt
import torch
from checks import lesson1 as check
from IPython.display import Markdown, display

from proma_bench import ProjectionConfig, Proma, accumulate, project
from proma_bench.learning.advantages import group_advantages
from proma_bench.learning.divergences import entropy, kl
from proma_bench.tiers.bandit.config import BanditConfig
from proma_bench.tiers.bandit.tier import Bandit

plt.style.use("lessons.mplstyle")
torch.set_num_threads(1)  # faster for small tensors


def fraction(number):
    """A number as you would write it on paper."""
    return str(Fraction(float(number)).limit_denominator(200))


def table(header, rows):
    """Show a table."""
    lines = [header, ["---"] * len(header), *rows]
    display(Markdown("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)))


# %% [markdown]
# ## Three actions
#
# The parameters are the logits $\theta$ themselves, $p = \mathrm{softmax}(\theta)$. The log-prob gradient of
# action $a$ is one line of algebra:
#
# $$S_a = \nabla_\theta \log p_a = e_a - p$$

# %%
p = torch.tensor([1 / 2, 1 / 3, 1 / 6], dtype=torch.float64)
theta = p.log()
S = torch.eye(3) - p  # row a is S_a

by_autograd = torch.func.jacrev(lambda logits: logits.log_softmax(0))(theta)
assert torch.allclose(S, by_autograd)

table(["", "θ₁", "θ₂", "θ₃"], [[f"S of action {a + 1}", *map(fraction, S[a])] for a in range(3)])

# %% [markdown]
# Each row sums to zero: adding the same number to every logit changes nothing, so no gradient points there.
#
# ## The KL divergence and its quadratic form
#
# A step $\delta$ moves the policy by $\mathrm{KL}(p_\theta \| p_{\theta+\delta})$. Expand it around $\delta = 0$:
# the constant is zero, the slope is zero (that is a minimum), and the curvature is the **Fisher matrix**:
#
# $$\mathrm{KL} \approx \tfrac12\, \delta^\top F \delta$$
#
# $$F = \sum_a p_a\, S_a S_a^\top = \mathrm{diag}(p) - p p^\top$$


# %%
def exact_kl(step):
    """KL(before || after) of steps [..., 3], in nats."""
    return (p * (p.log() - (theta + step).log_softmax(-1))).sum(-1)


F = torch.einsum("a,ai,aj->ij", p, S, S)
assert torch.allclose(F, torch.diag(p) - torch.outer(p, p))
assert torch.allclose(F, torch.func.hessian(exact_kl)(torch.zeros(3, dtype=torch.float64)))


def quadratic_form(step, matrix=F):
    """Half of step' F step."""
    return 0.5 * torch.einsum("...i,ij,...j->...", step, matrix, step)


table(["F", "θ₁", "θ₂", "θ₃"], [[f"θ{'₁₂₃'[i]}", *map(fraction, F[i])] for i in range(3)])

# %% [markdown]
# How good is the approximation? Left, both for all steps in the first two logits. Right, along one direction: the
# two touch, and what separates them shrinks with the third power of the step.

# %%
line = torch.linspace(-2, 2, 121, dtype=torch.float64)
grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
grid = torch.cat([grid, torch.zeros(*grid.shape[:2], 1)], dim=-1)
direction = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64) / 2**0.5
lengths = torch.logspace(-2, 0.5, 30, dtype=torch.float64)
ray = lengths[:, None] * direction

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4))
levels = [0.01, 0.05, 0.15, 0.3]
exact = left.contour(grid[..., 0], grid[..., 1], exact_kl(grid), levels, colors="black")
left.contour(grid[..., 0], grid[..., 1], quadratic_form(grid), levels, colors="#D55E00", linestyles="dashed")
left.clabel(exact, fontsize=8)
left.annotate("", direction[:2], (0, 0), arrowprops={"arrowstyle": "-|>", "color": "#0072B2", "lw": 2})
left.set(xlabel="step along θ₁", ylabel="step along θ₂", aspect="equal", title="solid: exact KL, dashed: ½ δᵀFδ")

gap = (exact_kl(ray) - quadratic_form(ray)).abs()
right.loglog(lengths, exact_kl(ray), label="exact KL", markevery=6)
right.loglog(lengths, quadratic_form(ray), label="½ δᵀFδ", markevery=(3, 6))
right.loglog(lengths, gap, label="difference", markevery=6)
right.set(xlabel="length of the step", ylabel="nats", title="along the arrow")
right.legend()
plt.show()

small = torch.tensor(0.1, dtype=torch.float64) * direction
share = abs(1 - quadratic_form(small) / exact_kl(small))
slope = (gap[10] / gap[0]).log() / (lengths[10] / lengths[0]).log()
display(
    Markdown(f"At length 0.1 it is {share:.1%} off. The difference grows like the length to the power {slope:.2f}.")
)

# %% [markdown]
# ## Two microbatches with a pencil
#
# One optimizer step, two microbatches of one sample each. The first sample is action 1, with advantage 1; it
# leaves $A = S_1$. The second is action 2. How much of $A$ is removed?
#
# $$w = \frac{\langle A, S_2 \rangle}{\langle S_2, S_2 \rangle}$$
#
# $$A \leftarrow A - w\,S_2 + a\,S_2 = A + (a - w)\,S_2$$
#
# The bracket is worth a second look. The whole step is an ordinary policy gradient, only with a **corrected
# advantage** $u = a - w$.

# %%
A, newcomer = S[0], S[1]
overlap, square = A @ newcomer, newcomer @ newcomer
w = overlap / square
left_over = A - w * newcomer
assert torch.allclose(left_over, project(A, newcomer.unsqueeze(0)))
display(
    Markdown(
        f"$\\langle A, S_2\\rangle$ = {fraction(overlap)}, $\\langle S_2, S_2\\rangle$ = {fraction(square)}, so $w$ = "
        f"{fraction(w)}, and an advantage of 1 becomes {fraction(1 - w)}."
    )
)

# %% [markdown]
# The weight is negative! Making action 1 more likely made action 2 less likely, before anyone had looked at how
# good action 2 is. The projection gives that back first. See what the old part of the step alone does to the
# three probabilities:

# %%
rate = 0.5
after = {
    "before the step": p,
    "A as it stands": (theta + rate * A).softmax(0),
    "A without its part along S₂": (theta + rate * left_over).softmax(0),
}
figure, axes = plt.subplots(figsize=(7, 3.4))
looks = [("", "0.75"), ("//", "#9EC9E2"), ("..", "#F3C3A5")]
for offset, (name, probs), (hatch, shade) in zip([-0.27, 0, 0.27], after.items(), looks, strict=True):
    axes.bar(torch.arange(3) + offset, probs, 0.26, label=name, hatch=hatch, color=shade, edgecolor="black")
axes.set_xticks(range(3), ["action 1\n(the old sample)", "action 2\n(the newcomer)", "action 3"])
axes.set(ylabel="probability", ylim=(0, 0.8))
axes.legend(loc="upper right")
plt.show()

moved = {name: float((probs[1] / p[1]).log()) for name, probs in after.items()}
display(
    Markdown(
        f"The newcomer's log-prob moves by {moved['A as it stands']:+.3f} with $A$ and by "
        f"{moved['A without its part along S₂']:+.3f} with the rest, which is of second order in the step."
    )
)

# %% [markdown]
# Why this is *proximal*: the newcomer's microbatch estimates the Fisher matrix by its own samples, $\hat F =
# \frac1B \sum_i S_i S_i^\top$. What is left of $A$ has no component along any $S_i$, so by that estimate the old
# part of the step costs nothing at all.
#
# Mind what this does not say. It is about the exact projection, the last microbatch, and the *old* part of the step;
# nothing limits the new part. The clamp usually leaves some of the component in (lesson 4). And Adam rescales a
# gradient entry by entry, so its step need not be orthogonal to any $S_i$. Whether PROMA moves a policy less in
# practice has to be measured.

# %%
estimate = torch.outer(newcomer, newcomer)
rows = [
    [name, f"{quadratic_form(step, estimate):.4f}", f"{quadratic_form(step):.4f}"]
    for name, step in {"A": A, "what is left of A": left_over}.items()
]
table(["½ AᵀFA", "by the microbatch's estimate", "by the true F"], rows)

# %% [markdown]
# By the *true* matrix it does still cost something. One sample is a poor estimate. What happens over many
# microbatches?
#
# ## Where an accumulated step points
#
# Twenty actions, rewards drawn at random, a step of 64 samples in microbatches of 4. The eigenvectors of $F$ are
# directions in which the policy is stiff (large eigenvalue: many nats for a short step) or soft. Where does a
# step point, accumulated plainly or with PROMA?

# %%
ACTIONS = 20
SAMPLES = 64
DRAWS = 200
BUDGET = 0.01  # nats


def draw_bandit(generator):
    """A policy, rewards, and the samples of one step: logits, rewards, gradients and advantages."""
    logits, rewards = torch.randn(2, ACTIONS, generator=generator, dtype=torch.float64)
    probs = logits.softmax(0)
    actions = torch.multinomial(probs, SAMPLES, replacement=True, generator=generator)
    advantages = rewards[actions] - rewards[actions].mean()
    return logits, rewards, torch.eye(ACTIONS)[actions] - probs, advantages


def projected(S, advantages, config):
    """The accumulated step, microbatch after microbatch."""
    A = None
    for microbatch in torch.arange(SAMPLES).split(4):
        A = accumulate(A, S[microbatch], advantages[microbatch], config)
    return A


def scaled_to(budget, logits, direction):
    """The multiple of a direction that moves the policy by so many nats, by bisection."""

    def moved(length):
        after = (logits + length * direction).log_softmax(0)
        return (logits.softmax(0) * (logits.log_softmax(0) - after)).sum()

    low, high = 0.0, 1.0
    while moved(high) < budget:
        high *= 2
    for _halving in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if moved(middle) < budget else (low, middle)
    return low * direction


METHODS = {
    "plain": ProjectionConfig(shrinkage=0.0),
    "PROMA, clamp 0.5": ProjectionConfig(),
    "exact, no clamp": ProjectionConfig(method="exact", max_removed=None),
}
generator = torch.Generator().manual_seed(0)
shares = {name: [] for name in METHODS}
gains = {name: [] for name in METHODS}
for _draw in range(DRAWS):
    logits, rewards, gradients, advantages = draw_bandit(generator)
    probs = logits.softmax(0)
    _, stiffness = torch.linalg.eigh(torch.diag(probs) - torch.outer(probs, probs))
    for name, config in METHODS.items():
        step = projected(gradients, advantages, config)
        shares[name].append((stiffness.T @ step).square() / step.square().sum())
        step = scaled_to(BUDGET, logits, step)
        gains[name].append(float(((logits + step).softmax(0) - probs) @ rewards))

figure, axes = plt.subplots(figsize=(7, 3.6))
for name in METHODS:
    axes.plot(torch.arange(1, ACTIONS + 1), torch.stack(shares[name]).mean(0).cumsum(0), label=name, markevery=2)
axes.set(
    xlabel="eigenvectors of F, from the softest to the stiffest", ylabel="share of the step's square\nin these so far"
)
axes.set(title=f"where a step points (mean of {DRAWS} bandits)", xticks=range(2, ACTIONS + 1, 2))
axes.legend()
plt.show()

# %% [markdown]
# Plain accumulation piles up where many samples agree, and that is where the policy is stiff. The projection
# moves the step into softer directions. Is that of any use? Scale every step until it moves the policy by the
# same number of nats, then look at the expected reward:

# %%
plain = torch.tensor(gains["plain"])
rows = []
for name, values in gains.items():
    difference = torch.tensor(values) - plain
    error = difference.std() / len(difference) ** 0.5
    versus = "" if name == "plain" else f"{difference.mean():+.4f} ± {1.96 * error:.4f}"
    rows.append([name, f"{torch.tensor(values).mean():.4f}", versus])
table([f"gain in reward for {BUDGET} nats", "mean", "against plain (95 %)"], rows)

# %% [markdown]
# A gain in a toy, and no more than that. So on to data.
#
# ## The digits bandit
#
# A context is a handwritten digit, an action one of ten labels, the reward 1 for the right one. The policy is a
# small network, the advantages are relative to eight samples of the same image. Two measures: the **sampled accuracy**
# is the mean probability of the right label on images held out, the **local KL** of a step is KL(policy before it ‖
# after), averaged over the batch. This is the whole training loop. Look for what the two methods do not share:

# %%
STEPS = 60
SEEDS = 2
RATES = [0.0025, 0.005, 0.01]


def train(method, learning_rate, seed):
    """Sampled accuracy, local KL and entropy after every optimizer step [STEPS, 3]."""
    bandit = Bandit(BanditConfig(initial_states=32))  # 32 images, 8 samples each
    streams = {name: torch.Generator().manual_seed(seed) for name in ("weights", "initial_states", "actions", "order")}
    policy = bandit.policy(streams["weights"])
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    proma = Proma(policy, ProjectionConfig()) if method == "PROMA" else None
    history = []
    for _step in range(STEPS):
        batch = bandit.sample(policy, streams)
        batch = dataclasses.replace(batch, advantages=group_advantages(batch.rewards, 8))
        with torch.no_grad():
            before = policy.on(batch)
        for microbatch in batch.microbatches(8, streams["order"]):
            log_probs = policy.on(microbatch).log_prob(microbatch.actions) / len(batch)
            if proma:
                proma.backward(log_probs, microbatch.advantages)
            else:
                (-(microbatch.advantages * log_probs).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            after = policy.on(batch)
        score = bandit.evaluate(policy)["score_sampled"]
        history.append([score, kl(before, after, batch), entropy(after, batch)])
    return torch.tensor(history)


runs = {
    (method, rate): torch.stack([train(method, rate, seed) for seed in range(SEEDS)]).mean(0)
    for method in ("REINFORCE", "PROMA")
    for rate in RATES
}

# %%
figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
for (method, rate), history in runs.items():
    style = (
        {"color": "black", "linestyle": "solid"} if method == "PROMA" else {"color": "#D55E00", "linestyle": "dashed"}
    )
    marker = {"marker": "os^D"[RATES.index(rate) % 4], "markevery": max(1, STEPS // 6), "label": f"{method}, {rate:g}"}
    panels[0].plot(range(1, STEPS + 1), history[:, 0], **style, **marker)
    panels[1].plot(history[:, 1].cumsum(0), history[:, 0], **style, **marker)
panels[0].set(xlabel="optimizer step", ylabel="validation accuracy (sampled)", title="by steps")
panels[1].set(xlabel="sum of local KL (nats)", xscale="log", title="by the local KL spent")
panels[1].legend(title="method, learning rate", fontsize=8, ncols=1)
plt.show()

# %%
goal = min(float(history[:, 0].max()) for history in runs.values())
rows = []
for (method, rate), history in runs.items():
    reached = int((history[:, 0] >= goal).nonzero()[0])
    rows.append([method, rate, reached + 1, f"{history[: reached + 1, 1].sum():.3f}", f"{history[reached, 2]:.2f}"])
display(Markdown(f"To an accuracy of {goal:.2f}, which every run reaches:"))
table(["method", "learning rate", "steps", "local KL spent", "entropy there"], rows)

# %% [markdown]
# The sum of local KL is no distance: with half the learning rate a run takes up to twice the steps and spends half or
# less, so the smallest rate always looks best. Look for two runs that have spent the same, one of each method, and
# compare their steps and their entropy. These are few seeds; `proma-bench ladder --tiers bandit` does it with ten and
# with confidence intervals, and lesson 3 shows how to read those.
#
# ## Exercises
#
# ### 1. The Fisher matrix
#
# Write it as a function of the probabilities, as the mean of $S S^\top$ over actions drawn from the policy.


# %%
def fisher(probs): ...


check.fisher_matrix(fisher)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def fisher(probs):
#     S = torch.eye(len(probs)) - probs
#     return torch.einsum("a,ai,aj->ij", probs, S, S)
#
#
# check.fisher_matrix(fisher)
# ```
#
# </details>
#
# ### 2. With a pencil
#
# Now $p = (\tfrac14, \tfrac14, \tfrac12)$. The first microbatch was action 1 with advantage 1, so $A = S_1$. The
# second is action 3, with advantage 1. What is its corrected advantage, without a clamp?

# %%
corrected = ...
check.corrected_by_hand(corrected)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $S_1 = (\tfrac34, -\tfrac14, -\tfrac12)$ and $S_3 = (-\tfrac14, -\tfrac14, \tfrac12)$, so $\langle A, S_3
# \rangle = -\tfrac38$ and $\langle S_3, S_3 \rangle = \tfrac38$.
#
# ```python
# corrected = 1 - (-3 / 8) / (3 / 8)
# check.corrected_by_hand(corrected)
# ```
#
# </details>
#
# ### 3. A step of a given KL
#
# Return the positive multiple of `direction` whose KL is `nats`, by the quadratic form. No bisection.


# %%
def step_of_kl(direction, F, nats): ...


check.step_of_kl(step_of_kl)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def step_of_kl(direction, F, nats):
#     return direction * (2 * nats / (direction @ F @ direction)).sqrt()
#
#
# check.step_of_kl(step_of_kl)
# ```
#
# </details>
#
# Next: [2 · Exact, approximate, and why it is the same price](2_exact_or_approximate.ipynb).
