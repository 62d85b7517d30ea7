# %% [markdown]
# # 4 · Inside the backward pass
#
# **How do you get the gradient of every sequence without a backward pass for every sequence?**
#
# PROMA projects onto the span of the sequence gradients $S_i$: the gradient of $\log p(\text{sequence } i)$, one for
# each sequence and parameter tensor. Autograd hands you their sum. Calling it once a sequence would do, at the price
# of a batch size of one. Here you take them from a single backward pass, in which all that is needed passes by
# anyway.

# %%
import matplotlib.pyplot as plt
import torch
from checks import lesson4 as check
from torch import nn

from proma_bench import ProjectionConfig, Proma, accumulate, register_rule
from proma_bench.backward.cost import cheaper_gram_method
from proma_bench.backward.factors import Dense
from proma_bench.experiments.training import Training
from proma_bench.tiers.bandit.config import BanditConfig

plt.style.use("lessons.mplstyle")
torch.manual_seed(0)
SEQUENCES, TOKENS, VOCABULARY = 4, 6, 12
BANDIT_STEPS = 40

# %% [markdown]
# ## A policy small enough to look into
#
# It reads tokens and predicts the next one. Its head is tied to its embedding: both use one weight. Everything is in
# float64, so that "equal" can mean equal to fifteen digits.


# %%
class Reader(nn.Module):
    """Embedding, one hidden layer, and a head that shares the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.hidden = nn.Linear(8, 16)
        self.out = nn.Linear(16, 8)
        self.head = nn.Linear(8, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.out(self.hidden(self.embedding(tokens)).tanh()))


def log_probs(policy, tokens):
    """The log-prob of each sequence, [B]: the sum over its tokens."""
    of_all = policy(tokens[:, :-1]).log_softmax(dim=-1)  # [B, T, vocabulary]
    return of_all.gather(2, tokens[:, 1:, None]).squeeze(2).sum(dim=1)


policy = Reader().double()
tokens = torch.randint(VOCABULARY, (SEQUENCES, TOKENS + 1))
log_probs(policy, tokens)

# %% [markdown]
# ## Slow and obviously right: one backward pass per sequence
#
# This is the *oracle* of the lesson: whatever is faster must give the same.


# %%
def one_by_one(parameter):
    """S [B, *W]: one backward pass for each sequence."""
    rows = [torch.autograd.grad(log_probs(policy, tokens[i : i + 1]).sum(), parameter)[0] for i in range(SEQUENCES)]
    return torch.stack(rows)


literal = one_by_one(policy.hidden.weight)
literal.shape


# %% [markdown]
# ## What passes by
#
# A linear layer computes $y_t = W x_t$ for every token $t$. In the backward pass it meets
# $g_t = \partial(\sum_j \log p_j) / \partial y_t$. The log-prob of another sequence does not depend on $y_t$, so
# $g_t$ *is* the gradient of its own sequence's log-prob, provided that the backward pass is seeded with ones and not
# with advantages. Then
#
# $$S_i = \sum_{t \in i} g_t\, x_t^\top = G_i^\top X_i .$$
#
# Autograd computes this product, too, but over all tokens at once, where sequences can no longer be told apart. So
# you note $X$ on the way in and $G$ on the way back, and multiply them yourself.


# %%
def watch(layer):
    """Note the layer's input X [B, T, in], and on the way back its output gradient G [B, T, out]."""
    seen = {}

    def note(_, inputs, output):
        seen["X"] = inputs[0].detach()
        output.register_hook(lambda gradient: seen.update(G=gradient))

    return seen, layer.register_forward_hook(note)


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


seen, handle = watch(policy.hidden)
log_probs(policy, tokens).sum().backward()  # one pass, seeded with ones
handle.remove()
X, G = seen["X"], seen["G"]
S = torch.einsum("bto,bti->boi", G, X)  # S_i = G_i' X_i
print(f"relative error of S against one backward pass per sequence: {relative_error(S, literal):.1e}")

# %% [markdown]
# ## The Gram matrix without any gradient
#
# From lesson 2 you know that the step needs only $K_{ij} = \langle S_i, S_j\rangle$ and
# $c_i = \langle A, S_i\rangle$. The inner product of two outer products is a product of two inner products,
# $\langle g x^\top, h y^\top\rangle = \langle g, h\rangle\langle x, y\rangle$. So you do not have to write out any
# $S_i$:
#
# $$K_{ij} = \sum_{s \in i}\sum_{t \in j} \big[(GG^\top) \circ (XX^\top)\big]_{st} .$$

# %%
g, x = G.flatten(0, 1), X.flatten(0, 1)  # all tokens: [N, out], [N, in]
pairs = (g @ g.T) * (x @ x.T)  # (GG') o (XX')
K = pairs.view(SEQUENCES, TOKENS, SEQUENCES, TOKENS).sum(dim=(1, 3))  # summed within each block
print(f"relative error of K: {relative_error(K, S.flatten(1) @ S.flatten(1).T):.1e}")

# %%
figure, axes = plt.subplots(1, 4, figsize=(10, 3.1))
titles = ["$GG^T$", r"$\circ\;\; XX^T$", r"$=\; (GG^T)\circ(XX^T)$", "summed in each block: $K$"]
for panel, matrix, title in zip(axes, [g @ g.T, x @ x.T, pairs, K], titles, strict=True):
    size = matrix.abs().max()
    panel.imshow(matrix, vmin=-size, vmax=size, cmap="gray")
    panel.set_title(title, fontsize=11)
    panel.grid(False)
    ticks = torch.arange(SEQUENCES) * len(matrix) / SEQUENCES + len(matrix) / SEQUENCES / 2 - 0.5
    panel.set_xticks(ticks, range(1, SEQUENCES + 1))
    panel.set_yticks(ticks, range(1, SEQUENCES + 1))
    panel.tick_params(length=0)
    for edge in torch.arange(1, SEQUENCES) * len(matrix) / SEQUENCES - 0.5:
        panel.axhline(edge, color="#D55E00", linewidth=1, linestyle="-", marker="")
        panel.axvline(edge, color="#D55E00", linewidth=1, linestyle="-", marker="")
    panel.set_xlabel("sequence")
axes[0].set_ylabel("sequence")
for i in range(SEQUENCES):
    for j in range(SEQUENCES):
        dark = K[i, j] < 0.3 * K.abs().max()
        axes[3].text(j, i, f"{K[i, j]:.1f}", ha="center", va="center", color="white" if dark else "black", fontsize=8)
figure.suptitle(
    f"{SEQUENCES} sequences of {TOKENS} tokens; black is negative, mid-grey zero, white positive", fontsize=9
)
plt.show()

# %% [markdown]
# The overlaps and the sum at the end need no $S_i$ either. With a running gradient $A$ and any coefficients $u$:
#
# $$c_i = \sum_{t \in i} g_t^\top A\, x_t , \qquad \sum_i u_i S_i = \sum_t u_{i(t)}\, g_t\, x_t^\top .$$

# %%
A, u = torch.randn(16, 8, dtype=torch.float64), torch.randn(SEQUENCES, dtype=torch.float64)
c = ((G @ A) * X).sum(dim=(1, 2))  # c_i
total = (u.repeat_interleave(TOKENS)[:, None] * g).T @ x  # one ordinary product of matrices
print(f"relative error of c:     {relative_error(c, S.flatten(1) @ A.flatten()):.1e}")
print(f"relative error of sum:   {relative_error(total, torch.tensordot(u, S, dims=1)):.1e}")

# %% [markdown]
# Which way is cheaper depends on the sizes. All pairs of tokens (`tokens` below) cost about
# $N^2 (\text{out} + \text{in})$ multiplications for $K$, and $2N\,\text{out}\cdot\text{in}$ for $c$ and the sum.
# Writing $S$ out (`rows`) costs $N\,\text{out}\cdot\text{in}$, its Gram matrix $3B^2\,\text{out}\cdot\text{in}$ (the
# 3 is measured: so flat a product runs at a third of the speed), and the passes over $S$ about
# $6B\,\text{out}\cdot\text{in}$. The engine estimates both and takes the cheaper one, layer by layer:

# %%
for length in (8, 16, 32, 64, 256, 1024):
    way = cheaper_gram_method(sequences=8, rows=8 * length, outputs=3072, inputs=1024)
    print(f"a layer 1024 → 3072, 8 sequences of {length:4d} tokens: {way}")


# %% [markdown]
# ## A layer of your own
#
# In `proma_bench`, the few lines above are the *rule* of `nn.Linear`. A rule gets what passes by and returns the
# sequence gradients, as factors or written out (`Dense`). Here is a layer that no library knows, and its rule. For
# $y_t = s \circ x_t$,
#
# $$S_i = \sum_{t \in i} g_t \circ x_t .$$


# %%
class Gain(nn.Module):
    """Every feature times its own factor."""

    def __init__(self, features):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features, dtype=torch.float64))

    def forward(self, rows):
        return rows * self.scale


@register_rule(Gain)
def gain_rule(module, inputs, grad_output, layout):
    G, X = layout.group(grad_output), layout.group(inputs[0])  # [B, T, features], however the rows came
    return {"scale": Dense((G * X).sum(dim=1))}  # S_i


# %% [markdown]
# On its first backward pass, the sum of what a rule returns is compared with autograd's own gradient. So a rule whose
# *sum* is wrong does not train anything. (One that gives a sequence's part to another passes; for that, see the next
# section.) Watch one being caught that forgets the input:


# %%
class Forgetful(Gain):
    def forward(self, rows):  # the same; but a class of its own, with a rule of its own
        return rows * self.scale


@register_rule(Forgetful)
def forgetful_rule(module, inputs, grad_output, layout):
    return {"scale": Dense(layout.group(grad_output).sum(dim=1))}


wrong = nn.Sequential(nn.Embedding(VOCABULARY, 8), Forgetful(8), nn.Linear(8, VOCABULARY)).double()
with Proma(wrong) as proma:
    try:
        proma.backward(log_probs(wrong, tokens), torch.ones(SEQUENCES))
    except ValueError as error:
        print(error)

# %% [markdown]
# ## The whole engine against the oracle
#
# A sum that is right does not yet prove that its parts are, nor that clamp and recursion are. So compare everything:
# three microbatches through `Proma`, and the same three with sequence gradients from `torch.func`, one sequence at a
# time, and the literal step of lesson 2,
#
# $$A \leftarrow A - \rho\, P_S A + \textstyle\sum_i a_i S_i .$$


# %%
def oracle(policy, microbatches, config):
    """What the running gradient must be, by name of the tensor."""
    parameters = {name: parameter.detach() for name, parameter in policy.named_parameters()}

    def log_prob(parameters, sequence):
        return log_probs(lambda rows: torch.func.functional_call(policy, parameters, rows), sequence[None]).squeeze()

    every_sequence = torch.func.vmap(torch.func.grad(log_prob), in_dims=(None, 0))
    running = dict.fromkeys(parameters)
    for rows, advantages in microbatches:
        for name, seq_grads in every_sequence(parameters, rows).items():
            running[name] = accumulate(running[name], seq_grads, advantages, config)
    return running


config = ProjectionConfig()  # iterative, two sweeps, clamp 0.5
policy = Reader().double()
policy.out = nn.Sequential(Gain(16), policy.out)  # with your layer in it
microbatches = [
    (torch.randint(VOCABULARY, (SEQUENCES, TOKENS + 1)), torch.randn(SEQUENCES, dtype=torch.float64)) for _ in range(3)
]
expected = oracle(policy, microbatches, config)
with Proma(policy, config) as proma:
    for rows, advantages in microbatches:
        proma.backward(log_probs(policy, rows), advantages)
for name, parameter in policy.named_parameters():
    error = relative_error(-parameter.grad, expected[name])  # .grad is that of a loss, hence the sign
    print(f"{name:18} {list(parameter.shape)!s:10} relative error {error:.1e}")

# %% [markdown]
# ## One tensor, two uses
#
# `embedding.weight` above is also the head. Its sequence gradient is the *sum* over both uses, $S_i = E_i + H_i$:
# rows of $E_i$ for the tokens that were read, and $H_i = \sum_t g_t x_t^\top$ from the head. So its Gram matrix has
# cross terms,
#
# $$K_{ij} = \langle E_i, E_j\rangle + \langle H_i, H_j\rangle + \langle E_i, H_j\rangle + \langle H_i, E_j\rangle .$$
#
# Two shortcuts suggest themselves, and both are wrong: leave out the cross terms, or (as the author's published code
# does) leave out the embedding. Project a gradient $A$ each way, and look at what is left of it along each $S_i$.

# %%
policy.zero_grad()
at_embedding, first = watch(policy.embedding)
at_head, second = watch(policy.head)
log_probs(policy, tokens).sum().backward()
first.remove(), second.remove()
E = torch.zeros(SEQUENCES, VOCABULARY, 8, dtype=torch.float64)
for i in range(SEQUENCES):
    E[i].index_add_(0, at_embedding["X"][i], at_embedding["G"][i])  # row r: the sum over tokens that are r
H = torch.einsum("bto,bti->boi", at_head["G"], at_head["X"])
tied = one_by_one(policy.head.weight)
print(f"relative error of E + H:   {relative_error(E + H, tied):.1e}")
print(f"relative error of H alone: {relative_error(H, tied):.1e}")

# %%
E, H = E.flatten(1), H.flatten(1)
S = E + H
policy.zero_grad()
log_probs(policy, torch.randint(VOCABULARY, (SEQUENCES, TOKENS + 1))).sum().backward()
A = policy.head.weight.grad.flatten()  # what an earlier microbatch left behind


def cosines(gradient):
    """|cosine| of a gradient with each S_i."""
    return (S @ gradient).abs() / S.norm(dim=1) / gradient.norm()


def left_over(K, c, directions):
    """The same of what is left of A: w = K+ c, A - sum_i w_i directions_i."""
    return cosines(A - (torch.linalg.pinv(K) @ c) @ directions)


ways = {
    "before the projection": cosines(A),
    "head alone": left_over(H @ H.T, H @ A, H),
    "without cross terms": left_over(E @ E.T + H @ H.T, S @ A, S),
    "all four terms": left_over(S @ S.T, S @ A, S),
}
for (title, values), marker in zip(ways.items(), "osD^", strict=True):
    plt.semilogy(range(1, SEQUENCES + 1), values, marker, label=title, markersize=7)
plt.xticks(range(1, SEQUENCES + 1))
plt.xlabel("sequence $i$")
plt.ylabel(r"$|\cos|$ of what is left with $S_i$")
plt.title("The gradient of a tied weight, seen by each sequence")
plt.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# Only all four terms leave nothing but rounding. The engine adds up the uses of a tensor before it takes any inner
# product, which is why it waits until the last use of a weight has passed.
#
# ## The clamp, layer by layer
#
# Each tensor has its own Gram matrix, its own projection and its own clamp
#
# $$\rho = \min\big(1,\ \beta\,\|g\| / \|P_S A\|\big), \quad \|P_S A\|^2 = w^\top K w, \quad \|g\|^2 = a^\top K a ,$$
#
# so what is removed may differ from layer to layer. `Proma(record=True)` writes it down. Take the digits bandit after
# some training, and send one batch through as a single step, in microbatches of 8 sequences: with the paper's
# $\beta = 0.5$, without a clamp, and with $\beta = 0$, which removes nothing and is plain accumulation. All three are
# the iterative method with its two sweeps; the exact projection, without a clamp, is there to compare.

# %%
training = Training(BanditConfig(method="reinforce", steps=BANDIT_STEPS))
while training.step < BANDIT_STEPS:
    list(training.batch())
batch = training.sample()
microbatches = batch.microbatches(8, training.generators["order"])
parameters = dict(training.policy.named_parameters())


def one_step(config):
    """What the projection did, and the lengths of the running gradients [microbatches, tensors]."""
    lengths = []
    with Proma(training.policy, config, record=True) as proma:
        for part in microbatches:
            proma.backward(training.policy.on(part).log_prob(part.actions) / len(batch), part.advantages)
            lengths.append([float(parameter.grad.norm()) for parameter in parameters.values()])
        training.policy.zero_grad()
        return proma.stats(), torch.tensor(lengths)


settings = {
    "plain accumulation": ProjectionConfig(max_removed=0.0),
    r"clamp $\beta = 0.5$": ProjectionConfig(max_removed=0.5),
    "no clamp": ProjectionConfig(max_removed=None),
    "exact, no clamp": ProjectionConfig(method="exact", max_removed=None),
}
steps = {title: one_step(config) for title, config in settings.items()}


def mean_of(title, name, figure):
    """The mean over microbatches of a figure that was recorded for one tensor."""
    values = [getattr(record, figure) for record in steps[title][0] if record.parameter == name]
    return sum(values) / len(values)


# %%
_, (panel, other) = plt.subplots(1, 2, figsize=(10, 3), sharey=True)
for title, style in ((r"clamp $\beta = 0.5$", "C1s"), ("no clamp", "C2^"), ("exact, no clamp", "C3D")):
    shares = [mean_of(title, name, "removed_ratio") for name in parameters]
    panel.plot(shares, range(len(parameters)), style, label=title, markersize=8)
panel.set_yticks(range(len(parameters)), [f"{name} {list(value.shape)}" for name, value in parameters.items()])
panel.invert_yaxis()
panel.set(xlabel=r"removed, share of $\|A\|$", xlim=(0, 1))
panel.legend(fontsize=9, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
active = [mean_of(r"clamp $\beta = 0.5$", name, "clamped") for name in parameters]
other.barh(range(len(parameters)), active, 0.5, color="#bbbbbb", edgecolor="black")
other.set(xlabel=r"share of microbatches with $\rho < 1$, at $\beta = 0.5$", xlim=(0, 1))
plt.show()

# %% [markdown]
# Without a clamp most is removed from the biases, and from that of the head above all: it has ten entries, and eight
# sequences span much of its space. (Two sweeps do not take out all of that; the exact projection nearly empties it.)
# The clamp is active nearly always, and ties what may be removed to what is being added. What that does to the running
# gradient:

# %%
figure, axes = plt.subplots(2, 3, figsize=(10, 4.7), sharex=True, sharey=True)
for number, (panel, name) in enumerate(zip(axes.T.flat, parameters, strict=True)):
    unit = steps["plain accumulation"][1][-1, number]
    for title, (_, lengths) in steps.items():
        panel.plot(torch.arange(len(lengths)) + 1, lengths[:, number] / unit, label=title, markevery=8)
    panel.set_title(name, fontsize=10)
for panel in axes[1]:
    panel.set_xlabel("microbatch")
for panel in axes[:, 0]:
    panel.set_ylabel(r"$\|A\|$, plain = 1")
figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=9, ncols=4, loc="outside upper center")
plt.show()

# %% [markdown]
# Each column is a layer, its weight above its bias. Plain accumulation grows on and on. Without a clamp, $A$ soon
# stops growing: each microbatch takes out about as much as it puts in, so old microbatches fade, quickly in the small
# bias of the head and slowly in the weights. The clamp lies between: no microbatch may take out more than half the norm
# of what it adds.

# %% [markdown]
# ## Exercises
#
# **1. The rule of a linear layer.** `Affine` computes `rows @ weight + bias` with a weight of shape `[in, out]` (mind
# the order). Write its rule. `layout.group(tensor)` sorts rows into `[B, T, features]`, whether they came padded or
# packed. The check compares each sequence's gradient with autograd's, one sequence at a time, in float64.


# %%
class Affine(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(outputs, dtype=torch.float64))

    def forward(self, rows):
        return rows @ self.weight + self.bias


def affine_rule(module, inputs, grad_output, layout): ...  # return {"weight": Dense(...), "bias": Dense(...)}


check.affine_rule(Affine, affine_rule)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def affine_rule(module, inputs, grad_output, layout):
#     G, X = layout.group(grad_output), layout.group(inputs[0])
#     return {"weight": Dense(X.transpose(1, 2) @ G), "bias": Dense(G.sum(dim=1))}
#
#
# register_rule(Affine)(affine_rule)  # from here on, Proma covers the layer
# check.affine_rule(Affine, affine_rule)
# ```
#
# For a large layer, `OuterProducts(X, G, X.dtype)` from `proma_bench.backward.factors` keeps the factors, and leaves it
# to the engine whether $S$ is ever written out.
# </details>

# %% [markdown]
# **2. Sequences of unequal length.** Packed text has all tokens in one row, and `ids[n]` says whose token $n$ is.
# Compute the Gram matrix `[B, B]` from `G [N, out]`, `X [N, in]` and `ids [N]`, without writing out any sequence
# gradient. `sequences` is $B$; the tokens of a sequence need not be neighbours.


# %%
def packed_gram(G, X, ids, sequences): ...


check.packed_gram(packed_gram)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def packed_gram(G, X, ids, sequences):
#     pairs = (G @ G.T) * (X @ X.T)
#     members = torch.nn.functional.one_hot(ids, sequences).to(pairs.dtype)  # [N, B]
#     return members.T @ pairs @ members
#
#
# check.packed_gram(packed_gram)
# ```
# </details>

# %% [markdown]
# **3. A tied weight from its parts.** From `E [B, n]` and `H [B, n]` compute Gram matrix and overlaps of the tied
# tensor with a running gradient `A [n]`.


# %%
def tied(E, H, A): ...  # return K, c


check.tied(tied)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def tied(E, H, A):
#     S = E + H
#     return S @ S.T, S @ A
#
#
# check.tied(tied)
# ```
# </details>

# %% [markdown]
# **4. The clamp for free.** From the Gram matrix `K`, weights `w` (so that $P_S A = \sum_i w_i S_i$), advantages `a`
# and `beta`, compute $\rho$. No gradient is needed.


# %%
def rho(K, w, a, beta): ...


check.rho(rho)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def rho(K, w, a, beta):
#     removable, added = (w @ K @ w).sqrt(), (a @ K @ a).sqrt()
#     return min(1.0, float(beta * added / removable))
#
#
# check.rho(rho)
# ```
# </details>
