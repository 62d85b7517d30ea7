# %% [markdown]
# # 0 · Where to push a policy
#
# *Which steps change what a policy does, and which ones does nobody notice?*
#
# You need PyTorch and the idea of a policy gradient. This lesson is only about geometry: a policy with two
# parameters, then three, and arrows that you can draw. Everything later in the course is these pictures in more
# dimensions.

# %%
import ipywidgets
import matplotlib.pyplot as plt
import torch
from checks import lesson0 as check
from IPython.display import Markdown, display
from torch.distributions import Categorical, kl_divergence

from proma_bench import ProjectionConfig, accumulate, project

plt.style.use("lessons.mplstyle")
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## A policy with two parameters
#
# In context $x$ your policy says *yes* or *no*. The parameters are $\theta$, and the log-odds of *yes* are
# $\theta \cdot x$:


# %%
def policy(theta, x):
    """The distribution over no (0) and yes (1) in context x."""
    yes = (theta * x).sum(-1)
    return Categorical(logits=torch.stack([torch.zeros_like(yes), yes], dim=-1))


theta = torch.tensor([0.4, -0.3])
x = torch.tensor([1.0, 0.6])
display(Markdown(f"In this context it says *yes* with probability {policy(theta, x).probs[1]:.2f}."))

# %% [markdown]
# The **sequence log-prob gradient** of a sampled answer is what a policy-gradient method multiplies with an
# advantage:
#
# $$S = \nabla_\theta \log p_\theta(\text{answer} \mid x)$$


# %%
def log_prob_gradient(theta, x, answer):
    theta = theta.clone().requires_grad_()
    log_prob = policy(theta, x).log_prob(torch.tensor(answer))
    return torch.autograd.grad(log_prob, theta)[0]


S = log_prob_gradient(theta, x, answer=1)
display(Markdown(f"For *yes*, $S$ = ({S[0]:.2f}, {S[1]:.2f}). For *no* it points the other way, along the same line."))

# %% [markdown]
# ## In one context, the KL divergence grows along S
#
# A step $\delta$ makes another policy out of yours. How different is it here?
#
# $$\mathrm{KL}(\delta) = \mathrm{KL}\big(p_\theta(\cdot \mid x) \,\big\|\, p_{\theta+\delta}(\cdot \mid x)\big)$$


# %%
def kl_of_step(theta, step, x):
    """How far the policy moves in context x, in nats."""
    return kl_divergence(policy(theta, x), policy(theta + step, x))


along = S / S.norm()
across = torch.stack([-along[1], along[0]])
display(
    Markdown(
        f"A step of length 1 along $S$ costs {kl_of_step(theta, along, x):.3f} nats. "
        f"The same length across costs {abs(kl_of_step(theta, across, x)):.3f}."
    )
)

# %% [markdown]
# Now look at all steps at once. Each point of the picture is a step; dark is a large KL. The shades change at 0.005,
# 0.02, 0.05, 0.1, 0.2, 0.4 and 0.8 nats.


# %%
def steps(reach=2.0, points=161):
    """A grid of steps [points, points, 2]."""
    line = torch.linspace(-reach, reach, points)
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)


def draw_kl(axes, kl):
    grid = steps()
    levels = [0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6]
    axes.contourf(grid[..., 0], grid[..., 1], kl, levels, cmap="Greys", vmin=0, vmax=0.9, alpha=0.8, extend="max")
    axes.set(
        xlabel=r"step along $\theta_1$", ylabel=r"step along $\theta_2$", aspect="equal", xlim=(-2, 2), ylim=(-2, 2)
    )
    axes.grid(False)


def arrow(axes, vector, label, *, colour="black", dashes="solid", start=(0.0, 0.0), beyond=0.22):
    """An arrow from start to start + vector, with its name a little beyond the tip (or before it)."""
    x0, y0 = float(start[0]), float(start[1])
    x1, y1 = x0 + float(vector[0]), y0 + float(vector[1])
    away = beyond * vector / vector.norm()
    style = {"arrowstyle": "-|>", "color": colour, "linestyle": dashes, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (x1, y1), (x0, y0), arrowprops=style)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
    axes.annotate(label, (x1 + away[0], y1 + away[1]), color=colour, ha="center", va="center", bbox=box)


figure, axes = plt.subplots(figsize=(4.6, 4.2))
draw_kl(axes, kl_of_step(theta, steps(), x))
arrow(axes, along, "along $S$", colour="#0072B2", beyond=0.5)
arrow(axes, across, "across: free", colour="#D55E00", dashes="dashed")
axes.set_title("KL in one context, for every step")
plt.show()

# %% [markdown]
# A valley. Its floor runs across $S$: move along it as far as you like, and in this context the policy does the
# same as before. Two answers have their gradients on one line; of more, each has its own, and the floor is what is
# perpendicular to all of them. And here the log-odds are linear in $\theta$; otherwise a step along the floor is free
# to second order only.
#
# The idea that the whole project rests on is this: *a sampled sequence sees only the component of a step along its
# own* $S$. From it comes an *estimate* of the KL by this one sample, $\tfrac12 \langle S, \delta\rangle^2$; lesson 1
# says what it estimates.
#
# ## Accumulation, and what a newcomer does to the old
#
# One optimizer step is accumulated over microbatches. Say an earlier one has left the **running gradient** $A$, which
# PyTorch keeps in `param.grad` (with the other sign, as it belongs to a loss). Now a new sample arrives, with gradient
# $S$. As it stands, $A$ would move the policy on the new sample too, though that sample had no say in it. So take that
# component out before adding anything:
#
# $$A \;\leftarrow\; A - P_S A, \qquad P_S A = \frac{\langle A, S\rangle}{\langle S, S\rangle} S$$

# %%
A = torch.tensor([0.5, 1.5])
one = S.unsqueeze(0)  # [1, 2]: a microbatch of one sequence
left = project(A, one)

by_hand = A - (A @ S) / (S @ S) * S
assert torch.allclose(left, by_hand)

figure, axes = plt.subplots(figsize=(4.6, 4.2))
draw_kl(axes, kl_of_step(theta, steps(), x))
arrow(axes, A, "$A$")
arrow(axes, left, "$A - P_SA$", colour="#D55E00", dashes="dashed", beyond=0.3)
arrow(axes, left - A, "$-P_SA$", colour="#0072B2", dashes="dotted", start=A, beyond=-0.62)
axes.set_title("the running gradient, taken down to the valley's floor")
plt.show()
display(
    Markdown(
        f"KL on the new sample: {kl_of_step(theta, A, x):.3f} nats with $A$, "
        f"{abs(kl_of_step(theta, left, x)):.3f} with what is left of it."
    )
)

# %% [markdown]
# ## Away from none, from one, from two
#
# With two different samples in the microbatch, $P$ projects onto the *span* of both gradients. Two arrows in a
# plane span the plane. Look at the third picture:

# %%
x_other = torch.tensor([-0.5, 1.0])
S_other = log_prob_gradient(theta, x_other, answer=0)


def draw_projection(axes, A, gradients, contexts):
    """A, what is left of it, and the mean KL over the contexts of the microbatch."""
    draw_kl(axes, sum(kl_of_step(theta, steps(), x) for x in contexts) / max(1, len(contexts)) + steps()[..., 0] * 0)
    for number, gradient in enumerate(gradients, start=1):
        arrow(axes, 1.2 * gradient / gradient.norm(), f"$S_{number}$", colour="#0072B2", dashes="dotted")
    arrow(axes, A, "$A$")
    left = project(A, torch.stack(gradients)) if gradients else A
    if left.norm() > 0.01:
        arrow(axes, left, "left", colour="#D55E00", dashes="dashed", beyond=-0.3)
    else:
        axes.plot(0, 0, "X", color="#D55E00", markersize=11)
        axes.annotate("nothing left", (0, -0.35), color="#D55E00", ha="center")
    return left


figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.8), sharey=True)
cases = {"none": [], "one": [(S, x)], "two": [(S, x), (S_other, x_other)]}
for axes, (name, samples) in zip(panels, cases.items(), strict=True):
    left = draw_projection(axes, A, [gradient for gradient, _ in samples], [context for _, context in samples])
    axes.set_title(f"away from {name}: length {left.norm():.2f} of {A.norm():.2f}")
    axes.label_outer()
plt.show()

# %% [markdown]
# In a plane, two samples leave no room at all. A layer with a thousand weights and a microbatch of eight is
# another matter: eight directions are taken out, and all others stay. That is why PROMA wants layers that are
# wider than the microbatch, and why it has a clamp (below).
#
# With three parameters you can see the room that is left. The plane is the span of $S_1$ and $S_2$; what remains
# of $A$ stands perpendicular on it.

# %%
space = torch.tensor([[1.0, 0.2, 0.1], [0.1, 1.0, -0.2]])  # S_1 and S_2
A3 = torch.tensor([0.7, 0.6, 1.1])
left3 = project(A3, space)

figure = plt.figure(figsize=(5.6, 5))
axes = figure.add_subplot(projection="3d")
corners = torch.tensor([[-0.2, -0.2], [1.2, -0.2], [1.2, 1.2], [-0.2, 1.2]]) @ space
axes.plot_trisurf(*corners.T.numpy(), triangles=[[0, 1, 2], [0, 2, 3]], color="0.85", alpha=0.6)
arrows = [
    (space[0], "$S_1$", "#0072B2", "dotted"),
    (space[1], "$S_2$", "#0072B2", "dotted"),
    (A3, "$A$", "black", "solid"),
    (left3, "left", "#D55E00", "dashed"),
]
for vector, label, colour, dashes in arrows:
    axes.quiver(0, 0, 0, *vector, color=colour, linestyle=dashes, linewidth=2.5, arrow_length_ratio=0.1)
    axes.text(*(1.12 * vector), label, color=colour, fontsize=12)
axes.plot(*torch.stack([A3, left3]).T.numpy(), color="0.4", linestyle=":", marker="")
ticks = [0, 0.5, 1]
axes.set(xlabel=r"$\theta_1$", ylabel=r"$\theta_2$", zlabel=r"$\theta_3$", xticks=ticks, yticks=ticks, zticks=ticks)
axes.view_init(elev=32, azim=-68)
axes.set_box_aspect((1, 1, 0.9), zoom=0.85)
axes.set_title("away from two, with three parameters")
plt.show()
overlaps = space @ left3
display(Markdown(f"Overlaps of what is left with $S_1$ and $S_2$: {abs(overlaps[0]):.0e} and {abs(overlaps[1]):.0e}."))

# %% [markdown]
# ## Turn the arrows
#
# Turn $A$ and $S_1$. What happens to the rest when $S_1$ turns into the direction of $A$? When it turns perpendicular
# to it? Then set `samples` to 2 and bring $S_2$ close to $S_1$: what is left, and what changes when $S_2$ is exactly
# $S_1$? (Where this page is only viewed, there are no sliders: the pictures below them are the same, at some angles.)


# %%
def direction(degrees):
    angle = torch.deg2rad(torch.tensor(float(degrees)))
    return torch.stack([angle.cos(), angle.sin()])


def turn(axes, A_degrees, S1_degrees, S2_degrees, samples):
    """The same picture for contexts that point where you say."""
    contexts = [direction(S1_degrees), direction(S2_degrees)][:samples]
    gradients = [log_prob_gradient(theta, context, answer=1) for context in contexts]
    left = draw_projection(axes, 1.7 * direction(A_degrees), gradients, contexts)
    axes.set_title(f"left: {left.norm() / 1.7:.0%} of $A$")


@ipywidgets.interact(A_degrees=(0, 360, 5), S1_degrees=(0, 360, 5), S2_degrees=(0, 360, 5), samples=(0, 2))
def turn_with_sliders(A_degrees=40, S1_degrees=100, S2_degrees=170, samples=1):
    _, axes = plt.subplots(figsize=(4.6, 4.2))
    turn(axes, A_degrees, S1_degrees, S2_degrees, samples)
    plt.show()


# %%
figure, panels = plt.subplots(1, 4, figsize=(12.5, 3.5), sharey=True)
for axes, degrees in zip(panels, [40, 70, 100, 130], strict=True):
    turn(axes, 40, degrees, 170, samples=1)
    axes.set_xlabel(f"$S_1$ at {degrees}°, $A$ at 40°")
plt.show()

# %%
figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.5), sharey=True)
for axes, degrees in zip(panels, [170, 110, 100], strict=True):
    turn(axes, 40, 100, degrees, samples=2)
    axes.set_xlabel(f"$S_1$ at 100°, $S_2$ at {degrees}°, $A$ at 40°")
plt.show()

# %% [markdown]
# Two gradients that nearly agree take out as much as two that do not: a small difference is a direction, too. Only
# when they are equal is that direction gone, and what lies along it stays.

# %% [markdown]
# ## One step of PROMA
#
# After the projection comes the new sample's own gradient, times its advantage $a$: $\;A \leftarrow A - P_S A +
# a\,S$. That is one step of PROMA, and `accumulate` is that line. The paper's version is more careful in one
# respect, the **norm clamp**: it never removes more than $\beta = 0.5$ times the norm of what it adds.

# %%
advantage = torch.tensor([1.0])
free = accumulate(A, one, advantage, ProjectionConfig(method="exact", max_removed=None))
clamped = accumulate(A, one, advantage, ProjectionConfig(method="exact", max_removed=0.5))
assert torch.allclose(free, A - (A @ S) / (S @ S) * S + advantage[0] * S)

removed = {"without a clamp": A + S - free, "clamped at 0.5": A + S - clamped}
lines = [f"| {name} | {part.norm():.3f} | {(part.norm() / S.norm()):.2f} |" for name, part in removed.items()]
display(Markdown("\n".join(["| | norm removed | in norms of $a\\,S$ |", "|---|---:|---:|", *lines])))

# %% [markdown]
# ## What it costs
#
# What was taken out of $A$ was there for a reason: earlier samples asked for it. An earlier sample in context
# $x_\text{old}$ wanted the probability of its answer to grow. To first order a step $\delta$ changes that
# log-prob by $\langle S_\text{old}, \delta\rangle$:

# %%
x_old = torch.tensor([0.8, 0.7])
S_old = log_prob_gradient(theta, x_old, answer=1)
A_old = 2 * S_old  # what the old sample left behind, with an advantage of 2
left_old = project(A_old, one)
pushed = S_old @ S  # the new sample's own push, with an advantage of 1
cosine = (S_old @ S) / (S_old.norm() * S.norm())
display(
    Markdown(
        f"The two samples are much alike (cosine {cosine:.2f}). Before the projection, the running gradient raises the "
        f"old answer's log-prob at a rate of {S_old @ A_old:.3f}; after it, of {S_old @ left_old:.3f}. Add the new "
        f"sample's own push, at an advantage of 1, and it is {S_old @ left_old + pushed:.3f}; without projection, "
        f"{S_old @ A_old + pushed:.3f}."
    )
)

# %% [markdown]
# So the projection is not free. In the directions that old samples share with new ones it gives up what the old ones
# asked for, however good or bad they were; there only the new sample's advantage counts. Gradients are accumulated to
# average over samples, and in these directions that average is given up. Whether that is a good bargain is an empirical
# question. The rest of the course measures it.
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
# ### 3. A step that nobody notices
#
# These are two contexts of a policy with three parameters. Find a step of length 1 that changes the policy in
# neither.

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
