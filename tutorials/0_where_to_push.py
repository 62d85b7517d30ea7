# %% [markdown]
# # 0 · Where to push a policy
#
# *Which steps change what a policy does, and which steps leave it as it is?*
#
# - **You should know**: PyTorch's tensors and autograd, and what a policy gradient is.
# - **After this lesson you can** say which steps change a policy on a sample, project a gradient away from one sample
#   and from two, and say what that costs.
# - **Time**: about 40 minutes with the exercises (an estimate). The computer needs less than one of them.
#
# All symbols of the course are in one [glossary](../docs/glossary.md).

# %%
import ipywidgets
import matplotlib.pyplot as plt
import torch
from checks import Outcome
from checks import lesson0 as check
from figures import lesson0 as draw
from figures.tables import table
from IPython.display import Markdown, display
from torch.distributions import Categorical, kl_divergence

from proma_bench import ProjectionConfig, accumulate, project

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
RUNS = 20

# %% [markdown]
# ## A policy that collapses
#
# Twenty slot machines. Arm $k$ pays $k/19$, always, in an order that the policy does not know. The policy has one
# parameter for each arm, and it begins with equal probabilities. Each optimizer step samples 32 arms and follows the
# policy gradient, in microbatches of 4. The learning rate is far too high, on purpose.
#
# This is the whole run. The two methods differ in one argument: `REINFORCE` adds up the gradients of the
# microbatches, `PROMA` projects before it adds.

# %%
ARMS = 20
REINFORCE, PROMA = ProjectionConfig(shrinkage=0.0), ProjectionConfig()


def train(config, learning_rate, seed, steps=12):
    """The probability of the best arm and the entropy, before the first step and after each [steps + 1, 2]."""
    generator = torch.Generator().manual_seed(seed)
    pays = torch.linspace(0, 1, ARMS)[torch.randperm(ARMS, generator=generator)]
    theta, history = torch.zeros(ARMS), []
    for _step in range(steps + 1):
        probs = theta.softmax(0)
        history.append(torch.stack([probs[pays.argmax()], torch.special.entr(probs).sum()]))
        arms = torch.multinomial(probs, 32, replacement=True, generator=generator)
        seq_grads = torch.eye(ARMS)[arms] - probs  # the gradient of each sampled arm's log-probability
        advantages = (pays[arms] - pays[arms].mean()) / 32
        A = None
        for microbatch in torch.arange(32).split(4):
            A = accumulate(A, seq_grads[microbatch], advantages[microbatch], config)
        theta = theta + learning_rate * A
    return torch.stack(history)


draw.two_runs({"reinforce": train(REINFORCE, 200.0, seed=0), "proma": train(PROMA, 200.0, seed=0)})

# %% [markdown]
# Look at REINFORCE on the left. After its first step it is almost certain of an arm that is not the best one. From
# then on all 32 samples are this one arm, so all advantages are zero, and nothing changes any more. The policy has
# **collapsed**. PROMA starts from the same parameters, with the same learning rate and the same random numbers. It
# stays open for longer and finds the best arm.
#
# That was seed 0, and I chose it. Before you believe a picture like that, ask for more seeds.
#
# **Your guess**: out of 20 seeds, how many runs of PROMA collapse? (a) none, (b) fewer than of REINFORCE, but some,
# (c) as many or more. Set `guess = "a"`, `"b"` or `"c"`, then run the cell.

# %%
guess = ...


def collapsed(config, learning_rate):
    """How many runs end with the best arm at less than one percent."""
    return sum(bool(train(config, learning_rate, seed)[-1, 0] < 0.01) for seed in range(RUNS))


plain, proma, slower = collapsed(REINFORCE, 200.0), collapsed(PROMA, 200.0), collapsed(REINFORCE, 20.0)
assert train(REINFORCE, 200.0, seed=0)[-1, 0] < 0.01 and train(PROMA, 200.0, seed=0)[-1, 0] > 0.9
assert plain > proma and plain > slower
came_out = "a" if proma == 0 else "b"
words = f"At this rate {plain} of {RUNS} runs of REINFORCE collapse, and {proma} of PROMA. "
Outcome(guess, came_out, words + f"With a tenth of the rate, {slower} of {RUNS} runs of REINFORCE do.")

# %% [markdown]
# Fewer runs of PROMA collapse here; with so few runs that may still be luck (lesson 3 is about that). A lower
# learning rate does nearly as well. This is a toy, and what it shows is only that *how* you add up microbatches can
# matter. The question of the course is: what does the projection do, and what do you get from it that a lower
# learning rate does not give you? Lesson 8 shows how to compare fairly.
#
# This lesson is about the geometry behind it: a policy with two parameters, then three, and arrows that you can draw.
# Later lessons do the same in more dimensions.
#
# ## A policy with two parameters
#
# In a context $o$ your policy says *yes* or *no*. The parameters are $\theta$, and the log-odds of *yes* are
# $\theta \cdot o$:


# %%
def policy(theta, context):
    """The distribution over no (0) and yes (1) in this context."""
    yes = (theta * context).sum(-1)
    return Categorical(logits=torch.stack([torch.zeros_like(yes), yes], dim=-1))


theta = torch.tensor([0.4, -0.3])
context = torch.tensor([1.0, 0.6])
display(Markdown(f"In this context it says *yes* with probability {policy(theta, context).probs[1]:.2f}."))

# %% [markdown]
# The **sequence log-prob gradient** of a sampled answer is what a policy-gradient method multiplies by an
# advantage:
#
# $$S = \nabla_\theta \log p_\theta(\text{answer} \mid o)$$


# %%
def log_prob_gradient(theta, context, answer):
    theta = theta.clone().requires_grad_()
    log_prob = policy(theta, context).log_prob(torch.tensor(answer))
    return torch.autograd.grad(log_prob, theta)[0]


S, S_no = (log_prob_gradient(theta, context, answer) for answer in (1, 0))
assert torch.allclose(S / S.norm(), -S_no / S_no.norm())
display(Markdown(f"For *yes*, $S$ = ({S[0]:.2f}, {S[1]:.2f}). For *no* it points the other way, on the same line."))

# %% [markdown]
# ## In one context, the KL divergence grows along S
#
# After a step $\delta$ you have another policy. How different is it in this context?
#
# $$\mathrm{KL}(\delta) = \mathrm{KL}\big(p_\theta(\cdot \mid o) \,\big\|\, p_{\theta+\delta}(\cdot \mid o)\big)$$


# %%
def kl_of_step(theta, step, context):
    """How far the policy moves in this context, in nats."""
    return kl_divergence(policy(theta, context), policy(theta + step, context))


along = S / S.norm()
across = torch.stack([-along[1], along[0]])
costs = kl_of_step(theta, along, context), abs(kl_of_step(theta, across, context))
assert costs[0] > 0.1 and costs[1] < 1e-12
display(
    Markdown(f"A step of length 1 along $S$ costs {costs[0]:.3f} nats. The same length across costs {costs[1]:.3f}.")
)

# %% [markdown]
# Now look at all steps at once. Each point of the picture is a step, and dark means a large KL. The shades change at
# 0.005, 0.02, 0.05, 0.1, 0.2, 0.4 and 0.8 nats.

# %%
draw.along_and_across(kl_of_step(theta, draw.grid(), context), along, across)

# %% [markdown]
# You see a valley, and its floor runs across $S$. Move along the floor as far as you like: in this context the policy
# does the same as before. (With two answers, both gradients lie on one line. With more answers each has a line of its
# own, and the floor is perpendicular to all of them. And here the log-odds are linear in $\theta$. For other policies
# a step along the floor is free to second order only.)
#
# The whole project rests on this idea: *a sampled sequence sees only the component of a step along its own* $S$. From
# it you get an *estimate* of the KL by one sample, $\tfrac12 \langle S, \delta\rangle^2$. Lesson 1 says what it
# estimates.
#
# ## Accumulation: what an earlier sample does to a new one
#
# One optimizer step is accumulated over microbatches. Say that an earlier microbatch has left the **running
# gradient** $A$. (PyTorch keeps it in `param.grad`, with the other sign, as it belongs to a loss.) Now a new sample
# arrives, with gradient $S$. If you leave $A$ as it is, it moves the policy on the new sample, too, before anybody has
# looked at that sample's reward. So take this component out before you add anything:
#
# $$A \;\leftarrow\; A - P_S A, \qquad P_S A = \frac{\langle A, S\rangle}{\langle S, S\rangle} S$$

# %%
A = torch.tensor([0.5, 1.5])
one = S.unsqueeze(0)  # [1, 2]: a microbatch of one sequence
left = project(A, one)

by_hand = A - (A @ S) / (S @ S) * S
assert torch.allclose(left, by_hand)
draw.removal(kl_of_step(theta, draw.grid(), context), A, left)

before, after = kl_of_step(theta, A, context), abs(kl_of_step(theta, left, context))
assert before > 0.1 and after < 1e-12
display(Markdown(f"KL on the new sample: {before:.3f} nats with $A$, {after:.3f} with what is left of it."))

# %% [markdown]
# ## No sample, one sample, two samples
#
# With two different samples in the microbatch, $P_S$ projects onto the *span* of both gradients.
#
# **Your guess**: the third picture has two samples, and the plane has two dimensions. What is left of $A$? (a) about
# half of it, (b) a little, (c) nothing.

# %%
guess = ...
other_context = torch.tensor([-0.5, 1.0])
S_other = log_prob_gradient(theta, other_context, answer=0)


def mean_kl(contexts):
    """Of each step of the picture, over the contexts of a microbatch."""
    return sum((kl_of_step(theta, draw.grid(), one) for one in contexts), torch.zeros(161, 161)) / max(1, len(contexts))


cases = {"no sample": [], "one sample": [(S, context)], "two samples": [(S, context), (S_other, other_context)]}
panels = draw.panels(3)
for axes, (name, samples) in zip(panels, cases.items(), strict=True):
    gradients = torch.stack([gradient for gradient, _ in samples]) if samples else torch.zeros(0, 2)
    left = draw.projection(axes, A, gradients, mean_kl([context for _, context in samples]))
    axes.set_title(f"{name}: length {left.norm():.2f} of {A.norm():.2f}")
draw.show(panels)
assert left.norm() < 1e-12
Outcome(guess, "c", "Two gradients in different directions span the whole plane.")

# %% [markdown]
# In a plane, two samples leave no room. A layer with a thousand weights and a microbatch of eight is different:
# eight directions are taken out, and all others stay. That is why PROMA wants layers that are wider than the
# microbatch, and why it has a clamp (below).
#
# With three parameters you can see the room that is left. The plane is the span of $S_1$ and $S_2$. What is left of
# $A$ is perpendicular to it.

# %%
space = torch.tensor([[1.0, 0.2, 0.1], [0.1, 1.0, -0.2]])  # S_1 and S_2
A3 = torch.tensor([0.7, 0.6, 1.1])
left3 = project(A3, space)
draw.in_space(space, A3, left3)
overlaps = (space @ left3).abs()
assert overlaps.max() < 1e-12 and left3.norm() > 0.5
display(Markdown(f"Overlaps of what is left with $S_1$ and $S_2$: {overlaps[0]:.0e} and {overlaps[1]:.0e}."))

# %% [markdown]
# ## Turn the arrows
#
# <!-- arrows -->
# *On the documentation's site you can drag arrows here: the running gradient stands above the plane of $S_1$ and $S_2$.
# In Jupyter, use the sliders below, which turn arrows in a plane.*
# <!-- /arrows -->
#
# Turn $A$ and $S_1$ with the sliders. What is left when $S_1$ points along $A$? What is left when it is perpendicular
# to $A$? Then set `samples` to 2 and bring $S_2$ close to $S_1$. What is left, and what changes when $S_2$ is exactly
# $S_1$? (Where this page is only viewed, there are no sliders. The pictures below show the same at some angles.)


# %%
def direction(degrees):
    angle = torch.deg2rad(torch.tensor(float(degrees)))
    return torch.stack([angle.cos(), angle.sin()])


def turn(axes, A_degrees, S1_degrees, S2_degrees, samples):
    """The same picture for contexts that point where you say. Returns the share of A that is left."""
    contexts = [direction(S1_degrees), direction(S2_degrees)][:samples]
    gradients = [log_prob_gradient(theta, context, answer=1) for context in contexts]
    gradients = torch.stack(gradients) if gradients else torch.zeros(0, 2)
    left = draw.projection(axes, 1.7 * direction(A_degrees), gradients, mean_kl(contexts))
    axes.set_title(f"left: {left.norm() / 1.7:.0%} of $A$")
    return float(left.norm() / 1.7)


@ipywidgets.interact(A_degrees=(0, 360, 5), S1_degrees=(0, 360, 5), S2_degrees=(0, 360, 5), samples=(0, 2))
def turn_with_sliders(A_degrees=40, S1_degrees=100, S2_degrees=170, samples=1):
    turn(draw.panels(1)[0], A_degrees, S1_degrees, S2_degrees, samples)
    plt.show()


# %%
panels, shares = draw.panels(4), {}
for axes, degrees in zip(panels, [40, 70, 100, 130], strict=True):
    shares[degrees] = turn(axes, 40, degrees, 170, samples=1)
    axes.set_xlabel(f"$S_1$ at {degrees}°, $A$ at 40°")
draw.show(panels)
assert shares[40] < 1e-9 and shares[130] > 1 - 1e-9  # along A: nothing is left; perpendicular to A: all of it

# %%
panels, shares = draw.panels(3), {}
for axes, degrees in zip(panels, [170, 110, 100], strict=True):
    shares[degrees] = turn(axes, 40, 100, degrees, samples=2)
    axes.set_xlabel(f"$S_1$ at 100°, $S_2$ at {degrees}°, $A$ at 40°")
draw.show(panels)
assert shares[170] < 1e-9 and shares[110] < 1e-9 and shares[100] > 0.5

# %% [markdown]
# Two gradients that nearly agree take out as much as two that do not, because a small difference is a direction, too.
# Only when they are equal is that direction gone, and then what lies along it stays.

# %% [markdown]
# ## One step of PROMA
#
# After the projection comes the new sample's own gradient, times its advantage $a$: $\;A \leftarrow A - P_S A +
# a\,S$. That is one step of PROMA, and `accumulate` is that line. The paper's version has one limit in addition, the
# **norm clamp**: it never removes more than $\beta = 0.5$ times the norm of what it adds.

# %%
advantage = torch.tensor([1.0])
free = accumulate(A, one, advantage, ProjectionConfig(method="exact", max_removed=None))
clamped = accumulate(A, one, advantage, ProjectionConfig(method="exact", max_removed=0.5))
assert torch.allclose(free, A - (A @ S) / (S @ S) * S + advantage[0] * S)

removed = {"without a clamp": A + S - free, "clamped at 0.5": A + S - clamped}
assert torch.allclose(removed["clamped at 0.5"].norm(), 0.5 * S.norm())
table(
    ["", "norm removed", "in norms of $a\\,S$"],
    [[name, f"{part.norm():.3f}", f"{part.norm() / S.norm():.2f}"] for name, part in removed.items()],
)

# %% [markdown]
# ## What it costs
#
# What was taken out of $A$ was there for a reason: an earlier sample had asked for it. Say that an earlier sample in
# the context $o_\text{old}$ wanted the probability of its answer to grow. To first order a step $\delta$ changes that
# log-prob by $\langle S_\text{old}, \delta\rangle$:

# %%
old_context = torch.tensor([0.8, 0.7])
S_old = log_prob_gradient(theta, old_context, answer=1)
A_old = 2 * S_old  # what the old sample left behind, with an advantage of 2
left_old = project(A_old, one)
pushed = S_old @ S  # the new sample's own push, with an advantage of 1
cosine = (S_old @ S) / (S_old.norm() * S.norm())
assert cosine > 0.9 and S_old @ left_old < 0.1 * (S_old @ A_old)
display(
    Markdown(
        f"The two samples are much alike (cosine {cosine:.2f}). Before the projection, the running gradient raises the "
        f"old answer's log-prob at a rate of {S_old @ A_old:.3f}; after it, at a rate of {S_old @ left_old:.3f}. Add "
        f"the new sample's own push, at an advantage of 1, and the rate is {S_old @ left_old + pushed:.3f}. Without "
        f"the projection it would be {S_old @ A_old + pushed:.3f}."
    )
)

# %% [markdown]
# So the projection is not free. In the directions that old samples share with new ones, it gives up what the old
# samples asked for, however good or bad they were. In these directions only the new sample's advantage counts. You
# accumulate gradients to average over samples, and in these directions you lose that average. Whether this is a good
# bargain has to be measured, and the rest of the course measures it.
#
# ## Exercises
#
# ### 1. Away from one
#
# Write $A - P_S A$ for a microbatch of one sequence, without `project`. `seq_grads` has shape `[1, n]`.


# %%
def away_from_one(running, seq_grads):
    S = seq_grads[0]
    ...


check.projection_of_one(away_from_one)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def away_from_one(running, seq_grads):
#     S = seq_grads[0]
#     return running - (running @ S) / (S @ S) * S
#
#
# check.projection_of_one(away_from_one)
# ```
#
# </details>

# %% [markdown]
# ### 2. Away from two
#
# Now `seq_grads` is `[2, n]`, and the two are not perpendicular. Return what is left of `running`, perpendicular to
# both. Try the obvious thing first: take out one, then the other.


# %%
def away_from_two(running, seq_grads):
    S_1, S_2 = seq_grads
    ...


check.projection_of_two(away_from_two)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def away_from_two(running, seq_grads):
#     S_1, S_2 = seq_grads
#     S_2 = S_2 - (S_2 @ S_1) / (S_1 @ S_1) * S_1  # what is new in the second
#     for S in (S_1, S_2):
#         running = running - (running @ S) / (S @ S) * S
#     return running
#
#
# check.projection_of_two(away_from_two)
# ```
#
# </details>

# %% [markdown]
# ### 3. A step that changes nothing
#
# These are two contexts of a policy with three parameters. Find a step of length 1 that changes the policy in
# neither of them.

# %%
contexts = check.CONTEXTS  # [2, 3]
step = ...
check.quiet_step(step)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# step = torch.linalg.cross(contexts[0], contexts[1])
# step = step / step.norm()
# check.quiet_step(step)
# ```
#
# </details>
#
# Next: [1 · A bandit you can solve on paper](1_bandit.ipynb), where the valley becomes a matrix.
