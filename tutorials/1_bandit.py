# %% [markdown]
# # 1 · A bandit you can solve on paper
#
# *How far does a step move a policy, and what does the projection take out of it?*
#
# - **You should know**: lesson 0, and what a softmax and an eigenvector are.
# - **After this lesson you can** compute the Fisher matrix of a small policy, project two microbatches with a pencil,
#   and say why a projected step is called proximal, and what that does not promise.
# - **Time**: about 45 minutes with the exercises (an estimate). The computer needs less than two of them.
#
# In lesson 0 you saw the KL divergence as a valley. Here it becomes a matrix, for a policy that fits on paper:
# one context, three actions. You can do everything in the first half with a pencil. Then you do the same on
# 1,437 handwritten digits. Symbols are in the [glossary](../docs/glossary.md).

# %%
import dataclasses
import itertools
from fractions import Fraction

import torch
from checks import Outcome
from checks import lesson1 as check
from figures import lesson1 as draw
from figures.tables import table
from IPython.display import Markdown, display

from proma_bench import ProjectionConfig, Proma, accumulate, project
from proma_bench.learning.advantages import group_advantages
from proma_bench.learning.divergences import entropy, kl
from proma_bench.tiers.bandit.config import BanditConfig
from proma_bench.tiers.bandit.tier import Bandit

torch.set_num_threads(1)  # faster for small tensors


def fraction(number):
    """A number as you would write it on paper."""
    return str(Fraction(float(number)).limit_denominator(200))


# %% [markdown]
# ## Three actions
#
# The parameters are the logits $\theta$ themselves, $p = \mathrm{softmax}(\theta)$. The log-prob gradient of
# action $k$ is one line of algebra ($e_k$ is 1 at action $k$ and 0 elsewhere):
#
# $$S_k = \nabla_\theta \log p_k = e_k - p$$

# %%
p = torch.tensor([1 / 2, 1 / 3, 1 / 6], dtype=torch.float64)
theta = p.log()
S = torch.eye(3) - p  # row k is S_k

by_autograd = torch.func.jacrev(lambda logits: logits.log_softmax(0))(theta)
assert torch.allclose(S, by_autograd)
assert torch.allclose(S.sum(dim=1), torch.zeros(3, dtype=torch.float64))

table(["", "θ₁", "θ₂", "θ₃"], [[f"S of action {k + 1}", *map(fraction, S[k])] for k in range(3)])

# %% [markdown]
# Each row sums to zero. If you add the same number to every logit, the policy does not change, so no gradient has a
# component in that direction.
#
# ## The KL divergence and its quadratic form
#
# A step $\delta$ moves the policy by $\mathrm{KL}(p_\theta \| p_{\theta+\delta})$. Expand it around $\delta = 0$. The
# constant is zero. The slope is zero, too, because this is a minimum. The curvature is the **Fisher matrix**:
#
# $$\mathrm{KL} \approx \tfrac12\, \delta^\top F \delta$$
#
# $$F = \sum_k p_k\, S_k S_k^\top = \mathrm{diag}(p) - p p^\top$$


# %%
def exact_kl(step):
    """KL(before || after) of steps [..., 3], in nats."""
    return (p * (p.log() - (theta + step).log_softmax(-1))).sum(-1)


F = torch.einsum("k,ki,kj->ij", p, S, S)
assert torch.allclose(F, torch.diag(p) - torch.outer(p, p))
assert torch.allclose(F, torch.func.hessian(exact_kl)(torch.zeros(3, dtype=torch.float64)))


def quadratic_form(step, matrix=F):
    """Half of step' F step."""
    return 0.5 * torch.einsum("...i,ij,...j->...", step, matrix, step)


table(["F", "θ₁", "θ₂", "θ₃"], [[f"θ{'₁₂₃'[i]}", *map(fraction, F[i])] for i in range(3)])

# %% [markdown]
# How good is the approximation? On the left you see both, for all steps in the first two logits. On the right you see
# them along one direction. For short steps the two agree. The difference between them shrinks with the third power
# of the step.

# %%
direction = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64) / 2**0.5
draw.quadratic(exact_kl, quadratic_form, direction)

small, smaller = 0.1 * direction, 0.01 * direction
share = abs(1 - quadratic_form(small) / exact_kl(small))
gaps = [abs(exact_kl(step) - quadratic_form(step)) for step in (small, smaller)]
slope = (gaps[0] / gaps[1]).log10()
assert share < 0.02 and abs(slope - 3) < 0.1
display(
    Markdown(f"At length 0.1 it is {share:.1%} off. The difference grows like the length to the power {slope:.2f}.")
)

# %% [markdown]
# ## Two microbatches with a pencil
#
# Take one optimizer step with two microbatches of one sample each. The first sample is action 1, with advantage 1. It
# leaves $A = S_1$. The second sample is action 2. How much of $A$ is removed?
#
# $$w = \frac{\langle A, S_2 \rangle}{\langle S_2, S_2 \rangle}$$
#
# $$A \leftarrow A - w\,S_2 + a\,S_2 = A + (a - w)\,S_2$$
#
# Look at the bracket. The whole step is an ordinary policy gradient, only with a **corrected advantage** $u = a - w$.
#
# **Your guess**: action 2 has advantage 1. Is its corrected advantage (a) below 1, (b) exactly 1, or (c) above 1? Do
# it with a pencil if you like: $S_1$ and $S_2$ are in the table above.

# %%
guess = ...
A, new = S[0], S[1]
overlap, square = A @ new, new @ new
w = overlap / square
left_over = A - w * new
assert torch.allclose(left_over, project(A, new.unsqueeze(0))) and w < 0
display(
    Markdown(
        f"$\\langle A, S_2\\rangle$ = {fraction(overlap)}, $\\langle S_2, S_2\\rangle$ = {fraction(square)}, so $w$ = "
        f"{fraction(w)}, and an advantage of 1 becomes {fraction(1 - w)}."
    )
)
Outcome(guess, "c", "The weight $w$ is negative, so the advantage grows.")

# %% [markdown]
# Why? To make action 1 more likely is to make action 2 less likely, before anybody has asked how good action 2 is. The
# projection undoes that first. Here is what the old part of the step does to the three probabilities, alone:

# %%
rate = 0.5
after = {
    "before the step": p,
    "A as it stands": (theta + rate * A).softmax(0),
    "A without its part along S₂": (theta + rate * left_over).softmax(0),
}
draw.probabilities(after)
moved = {name: float((probs[1] / p[1]).log()) for name, probs in after.items()}
with_A, with_rest = moved["A as it stands"], moved["A without its part along S₂"]
assert abs(with_rest) < 0.05 * abs(with_A)
display(Markdown(f"The new sample's log-prob moves by {with_A:+.3f} with $A$, and by {with_rest:+.3f} with the rest."))

# %% [markdown]
# (It still moves a little, because the projection holds to first order in the step, and the step is not tiny.)
#
# Why is this called *proximal*? The new microbatch estimates the Fisher matrix from its own samples, $\hat F =
# \frac1B \sum_i S_i S_i^\top$. What is left of $A$ has no component along any $S_i$, so by that estimate the old
# part of the step costs nothing at all.
#
# Note what this does **not** say:
#
# - It is about the exact projection, the last microbatch, and the *old* part of the step. Nothing limits the new part.
#   So it is no bound on the KL.
# - The clamp usually leaves some of the component in (lesson 4).
# - Adam rescales a gradient entry by entry, so its step need not be orthogonal to any $S_i$.
#
# Whether PROMA moves a policy less in practice has to be measured.

# %%
estimate = torch.outer(new, new)
rows = [
    [name, f"{quadratic_form(step, estimate):.4f}", f"{quadratic_form(step):.4f}"]
    for name, step in {"A": A, "what is left of A": left_over}.items()
]
table(["½ AᵀFA", "by the microbatch's estimate", "by the true F"], rows)
assert quadratic_form(left_over, estimate) < 1e-12 < 0.01 < quadratic_form(left_over) < quadratic_form(A)

# %% [markdown]
# By the *true* matrix, what is left does still cost something, because one sample is a poor estimate. What happens
# over many microbatches?
#
# ## Where an accumulated step points
#
# Now take twenty actions with random rewards, and a step of 64 samples in microbatches of 4. The eigenvectors of $F$
# are directions in which the policy is *stiff* (a large eigenvalue: many nats for a short step) or *soft*. In which of
# them does an accumulated step point, with plain accumulation and with PROMA?

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

so_far = {name: torch.stack(values).mean(0).cumsum(0) for name, values in shares.items()}
looks = {"plain": ("reinforce", 0), "PROMA, clamp 0.5": ("proma", 0), "exact, no clamp": ("proma", 1)}
draw.stiffness(so_far, looks, DRAWS)
softer_half = {name: float(values[ACTIONS // 2 - 1]) for name, values in so_far.items()}
assert softer_half["plain"] < softer_half["PROMA, clamp 0.5"] < softer_half["exact, no clamp"]
display(Markdown("Share in the softer half: " + ", ".join(f"{name} {of:.0%}" for name, of in softer_half.items())))

# %% [markdown]
# Plain accumulation grows where many samples agree, and that is where the policy is stiff. The projection moves the
# step towards softer directions. Is that of any use? Scale every step until it moves the policy by the same number of
# nats, then look at the expected reward.
#
# **Your guess**: at the same number of nats, is the gain in reward with PROMA (a) higher than with plain accumulation,
# (b) the same, (c) lower?

# %%
guess = ...
plain = torch.tensor(gains["plain"])
rows, intervals = [], {}
for name, values in gains.items():
    difference = torch.tensor(values) - plain
    error = difference.std() / len(difference) ** 0.5
    intervals[name] = float(difference.mean() - 1.96 * error)
    versus = "" if name == "plain" else f"{difference.mean():+.4f} ± {1.96 * error:.4f}"
    rows.append([name, f"{torch.tensor(values).mean():.4f}", versus])
table([f"gain in reward for {BUDGET} nats", "mean", "against plain (95 %)"], rows)
assert DRAWS < 200 or (intervals["PROMA, clamp 0.5"] > 0 and intervals["exact, no clamp"] > 0)
Outcome(guess, "a", "The interval of the difference lies above zero, in this toy.")

# %% [markdown]
# This is a gain in a toy, and no more than that. So let us go on to data.
#
# ## The digits bandit
#
# A context is a handwritten digit, an action is one of ten labels, and the reward is 1 for the right label. The policy
# is a small network, and the advantages are relative to eight samples of the same image. There are two measures. The
# **sampled accuracy** is the mean probability of the right label on images held out. The **local KL** of a step is
# KL(policy before it ‖ after it), averaged over the batch. The cell below is the whole training loop. Find the lines
# in which the two methods differ.

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
    proma = Proma(policy, ProjectionConfig()) if method == "proma" else None
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
    for method in ("reinforce", "proma")
    for rate in RATES
}

# %%
draw.digits(runs)

# %%
goal = min(float(history[:, 0].max()) for history in runs.values())
rows, spent = [], {}
for (method, rate), history in runs.items():
    reached = int((history[:, 0] >= goal).nonzero()[0])
    spent[method, rate] = float(history[: reached + 1, 1].sum())
    rows.append([method, rate, reached + 1, f"{spent[method, rate]:.3f}", f"{history[reached, 2]:.2f}"])
display(Markdown(f"To an accuracy of {goal:.2f}, which every run reaches:"))
table(["method", "learning rate", "steps", "local KL spent", "entropy there"], rows)
ratios = [
    spent[method, low] / spent[method, high]
    for method in ("reinforce", "proma")
    for low, high in itertools.pairwise(RATES)
]
assert STEPS < 60 or max(ratios) < 0.7
display(Markdown(f"With half the learning rate, a run spends {min(ratios):.0%} to {max(ratios):.0%} of the local KL."))

# %% [markdown]
# Be careful with this table. The sum of local KL is no distance. With half the learning rate the same method reaches
# the same accuracy for clearly less of it (the last line says how much), in more steps. So the smallest rate always
# looks best. To compare the methods, look for two runs that have spent about the same, one of each method, and
# compare their steps and their entropy. And these are few seeds. `proma-bench ladder --tiers bandit` does it with ten
# seeds and with confidence intervals. Lesson 3 shows how to read those.
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
# Next: [2 · Exact, approximate, and what each costs](2_exact_or_approximate.ipynb).
