# %% [markdown]
# # 4 · Inside the backward pass
#
# **How do you get the gradient of every sequence without a backward pass for every sequence?**
#
# - **You should know**: lesson 2; what a hook of a PyTorch module is.
# - **After this lesson you can** take the gradient of each sequence from one backward pass, write the rule of a layer,
#   test an engine against a slow oracle, and find three bugs by their symptoms.
# - **Time**: about 60 minutes with the exercises (an estimate). The computer needs less than one of them.
#
# PROMA projects away from the span of the sequence gradients $S_i$: the gradients of $\log p(\text{sequence } i)$, one
# for each sequence and parameter tensor. Autograd gives you only their sum. You could call it once for each sequence,
# but that is as slow as a batch size of one. In this lesson you take them from a single backward pass, because
# everything that you need passes through it anyway. Symbols are in the [glossary](../docs/glossary.md).

# %%
import torch
from checks import Outcome, suspects
from checks import lesson4 as check
from figures import lesson4 as draw
from figures.tables import table
from IPython.display import Markdown, display
from torch import nn

from proma_bench import ProjectionConfig, Proma, accumulate, register_rule
from proma_bench.backward.cost import cheaper_gram_method
from proma_bench.backward.factors import Dense
from proma_bench.experiments.training import Training
from proma_bench.tiers.bandit.config import BanditConfig

torch.manual_seed(0)
SEQUENCES, TOKENS, VOCABULARY = 4, 6, 12
BANDIT_STEPS = 40
FULL = BANDIT_STEPS == 40  # what the text says of results is true of the full run

# %% [markdown]
# ## A policy that is small enough to look into
#
# It reads tokens and predicts the next one. Its head is tied to its embedding: both use one weight. Everything is in
# float64, so that "equal" means equal up to rounding in the last digits.


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
# This is the *oracle* of the lesson. Everything that is faster must give the same result.


# %%
def one_by_one(parameter):
    """S [B, *W]: one backward pass for each sequence."""
    rows = [torch.autograd.grad(log_probs(policy, tokens[i : i + 1]).sum(), parameter)[0] for i in range(SEQUENCES)]
    return torch.stack(rows)


literal = one_by_one(policy.hidden.weight)
literal.shape


# %% [markdown]
# ## What the backward pass has already computed
#
# A linear layer computes $y_t = W x_t$ for every token $t$. In the backward pass it meets
# $d_t = \partial(\sum_j \log p_j) / \partial y_t$. The log-prob of another sequence does not depend on $y_t$. So $d_t$
# *is* the gradient of its own sequence's log-prob, if the backward pass is seeded with ones and not with advantages.
# Then
#
# $$S_i = \sum_{t \in i} d_t\, x_t^\top = D_i^\top X_i .$$
#
# Autograd computes this product, too, but over all tokens at once, and then the sequences are mixed. So store $X$ in
# the forward pass and $D$ in the backward pass, and multiply them yourself.


# %%
def watch(layer):
    """Store the layer's input X [B, T, in], and in the backward pass the gradient of its output, D [B, T, out]."""
    seen = {}

    def note(_, inputs, output):
        seen["X"] = inputs[0].detach()
        output.register_hook(lambda gradient: seen.update(D=gradient))

    return seen, layer.register_forward_hook(note)


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


seen, handle = watch(policy.hidden)
log_probs(policy, tokens).sum().backward()  # one pass, seeded with ones
handle.remove()
X, D = seen["X"], seen["D"]
S = torch.einsum("bto,bti->boi", D, X)  # S_i = D_i' X_i
assert relative_error(S, literal) < 1e-12
display(Markdown(f"Relative error of $S$ against one backward pass per sequence: {relative_error(S, literal):.1e}."))

# %% [markdown]
# ## The Gram matrix without any gradient
#
# From lesson 2 you know that the step needs only $K_{ij} = \langle S_i, S_j\rangle$ and
# $c_i = \langle A, S_i\rangle$. The inner product of two outer products is a product of two inner products,
# $\langle d_s x_s^\top, d_t x_t^\top\rangle = \langle d_s, d_t\rangle\langle x_s, x_t\rangle$. So you do not have to
# write out any $S_i$:
#
# $$K_{ij} = \sum_{s \in i}\sum_{t \in j} \big[(DD^\top) \circ (XX^\top)\big]_{st} .$$

# %%
d, x = D.flatten(0, 1), X.flatten(0, 1)  # all tokens: [N, out], [N, in]
pairs = (d @ d.T) * (x @ x.T)  # (DD') o (XX')
K = pairs.view(SEQUENCES, TOKENS, SEQUENCES, TOKENS).sum(dim=(1, 3))  # summed within each block
assert relative_error(K, S.flatten(1) @ S.flatten(1).T) < 1e-12
display(Markdown(f"Relative error of $K$: {relative_error(K, S.flatten(1) @ S.flatten(1).T):.1e}."))

# %%
draw.gram_in_blocks([d @ d.T, x @ x.T, pairs, K], SEQUENCES, TOKENS)

# %% [markdown]
# The overlaps and the sum at the end need no $S_i$ either. With a running gradient $A$ and any coefficients $u$:
#
# $$c_i = \sum_{t \in i} d_t^\top A\, x_t , \qquad \sum_i u_i S_i = \sum_t u_{i(t)}\, d_t\, x_t^\top .$$

# %%
A, u = torch.randn(16, 8, dtype=torch.float64), torch.randn(SEQUENCES, dtype=torch.float64)
c = ((D @ A) * X).sum(dim=(1, 2))  # c_i
total = (u.repeat_interleave(TOKENS)[:, None] * d).T @ x  # one ordinary product of matrices
errors = relative_error(c, S.flatten(1) @ A.flatten()), relative_error(total, torch.tensordot(u, S, dims=1))
assert max(errors) < 1e-12
table(["", "relative error"], [["the overlaps $c$", f"{errors[0]:.1e}"], ["the sum", f"{errors[1]:.1e}"]])

# %% [markdown]
# Which way is cheaper depends on the sizes. The way over all pairs of tokens (`tokens` below) costs about $N^2
# (\text{out} + \text{in})$ multiplications for $K$, and $2N\,\text{out}\cdot\text{in}$ for $c$ and the sum. Writing
# $S$ out (`rows`) costs $N\,\text{out}\cdot\text{in}$. Then the Gram matrix costs $3B^2\,\text{out}\cdot\text{in}$
# (the 3 was measured: a product of such flat matrices runs at a third of the speed), and the passes over $S$ cost
# about $6B\,\text{out}\cdot\text{in}$. The engine estimates both and takes the cheaper one, layer by layer.
#
# **Your guess**: a layer has 1024 inputs and 3072 outputs, and there are 8 sequences. For which lengths is it cheaper
# to take all pairs of tokens? (a) for short sequences, (b) for long sequences, (c) for none.

# %%
guess = ...
ways = {
    length: cheaper_gram_method(sequences=8, rows=8 * length, outputs=3072, inputs=1024)
    for length in (8, 16, 32, 64, 256, 1024)
}
table(["tokens in each of the 8 sequences", "the cheaper way"], [[length, f"`{way}`"] for length, way in ways.items()])
assert ways[8] == "tokens" and ways[1024] == "rows"
Outcome(guess, "a", "The number of pairs grows with the square of the length.")


# %% [markdown]
# ## A layer of your own
#
# In `proma_bench`, the few lines above are the *rule* of `nn.Linear`. A rule gets $X$ and $D$ and returns the sequence
# gradients, as factors or written out (`Dense`). Here is a layer that no library knows, and its rule. For
# $y_t = \text{scale} \circ x_t$,
#
# $$S_i = \sum_{t \in i} d_t \circ x_t .$$


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
    D, X = layout.group(grad_output), layout.group(inputs[0])  # [B, T, features], however the rows came
    return {"scale": Dense((D * X).sum(dim=1))}  # S_i


# %% [markdown]
# In the first backward pass, the sum of what a rule returns is compared with autograd's own gradient. So a rule whose
# *sum* is wrong is found before it trains anything. (A rule that gives one sequence's part to another is not found in
# this way. That needs the next section.) Here is a rule that forgets the input:


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
# A right sum does not prove that its parts are right, nor that the clamp and the recursion are. So compare everything.
# Send three microbatches through `Proma`. Then do the same with sequence gradients from `torch.func`, one sequence at a
# time, and the literal step of lesson 2:
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
errors = {  # .grad is that of a loss, hence the sign
    name: relative_error(-parameter.grad, expected[name]) for name, parameter in policy.named_parameters()
}
assert max(errors.values()) < 1e-12
table(
    ["tensor", "shape", "relative error"],
    [[f"`{name}`", list(expected[name].shape), f"{error:.1e}"] for name, error in errors.items()],
)

# %% [markdown]
# ## One tensor, two uses
#
# `embedding.weight` above is also the head. Its sequence gradient is the *sum* over both uses, $S_i = E_i + H_i$:
# $E_i$ has rows for the tokens that were read, and $H_i = \sum_t d_t x_t^\top$ comes from the head. So its Gram matrix
# has cross terms,
#
# $$K_{ij} = \langle E_i, E_j\rangle + \langle H_i, H_j\rangle + \langle E_i, H_j\rangle + \langle H_i, E_j\rangle .$$
#
# Two shortcuts come to mind, and both are wrong: to leave out the cross terms, or to leave out the embedding (as the
# author's published code does). Project a gradient $A$ in each way, and look at what is left of it along each $S_i$.

# %%
policy.zero_grad()
at_embedding, first = watch(policy.embedding)
at_head, second = watch(policy.head)
log_probs(policy, tokens).sum().backward()
first.remove(), second.remove()
E = torch.zeros(SEQUENCES, VOCABULARY, 8, dtype=torch.float64)
for i in range(SEQUENCES):
    E[i].index_add_(0, at_embedding["X"][i], at_embedding["D"][i])  # row r: the sum over tokens that are r
H = torch.einsum("bto,bti->boi", at_head["D"], at_head["X"])
tied = one_by_one(policy.head.weight)
assert relative_error(E + H, tied) < 1e-12 < 0.1 < relative_error(H, tied)
parts = {"$E + H$": E + H, "$H$ alone": H}
table(["", "relative error"], [[name, f"{relative_error(part, tied):.1e}"] for name, part in parts.items()])

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
draw.tied(ways)
assert ways["all four terms"].max() < 1e-9 < 1e-3 < min(ways[name].max() for name in ways if name != "all four terms")

# %% [markdown]
# Only all four terms leave nothing but rounding. The engine adds up the uses of a tensor before it takes any inner
# product. That is why it waits for the last use of a weight.
#
# ## A bug hunt
#
# Three programs, A, B and C, accumulate a step with PROMA. Each has one of these mistakes:
#
# - (a) It seeds the backward pass with advantages: they are multiplied into the log-probs.
# - (b) Its microbatches are nested: each one contains the sequences of those before it, too.
# - (c) It takes the two uses of the tied weight for two tensors, so the cross terms are missing.
#
# You do not see the programs. You see their symptoms: which tensors differ from the oracle, in three situations.
#
# **Your guess**: set `guess` to three letters, for A, B and C in this order, such as `"abc"`. Run the cell once with
# `...` to see the symptoms first. Which mistake can you see only if some advantage is zero, and why?

# %%
guess = ...
first, second, third = microbatches
situations = {
    "one microbatch": [first],
    "three microbatches": [first, second, third],
    "three, and one advantage is zero": [first, (second[0], second[1] * torch.tensor([0.0, 1, 1, 1])), third],
}


def symptoms(program, parts):
    """Which tensors are not those of the oracle."""
    policy.zero_grad()
    found, expected = program(policy, log_probs, parts, config), oracle(policy, parts, config)
    wrong = [name for name in expected if relative_error(found[name], expected[name]) > 1e-6]
    return {0: "none", len(expected): "all"}.get(len(wrong), ", ".join(wrong))


symptom = {
    (letter, situation): symptoms(program, parts)
    for letter, program in suspects.PROGRAMS.items()
    for situation, parts in situations.items()
}
table(
    ["what is wrong, with", *situations],
    [[letter, *(symptom[letter, situation] for situation in situations)] for letter in suspects.PROGRAMS],
    numbers=False,
)
assert all(symptom[letter, "one microbatch"] == "none" for letter in "AC")
assert symptom["B", "three microbatches"] == "none" == symptom["C", "one microbatch"]
assert (
    symptom["B", "three, and one advantage is zero"] != "none"
    and symptom["C", "three microbatches"] == "embedding.weight"
)
Outcome(guess, "bac", "Program A nests its microbatches, B seeds with advantages, C takes one tensor for two.")

# %% [markdown]
# - **A**: with one microbatch nothing is nested, so nothing is wrong. With three, every tensor is wrong.
# - **B** is the dangerous one. To multiply $S_i$ by a number changes neither its direction nor the span. So as long as
#   no advantage is zero, all is well, and a test with random advantages does not find it. A sequence with advantage
#   zero should remove and does not. In training, silent groups make such sequences all the time.
# - **C** is wrong in one tensor only, the tied one.
#
# The programs are in `checks/suspects.py`. If you test code of your own, put zeros among the advantages.
#
# ## The clamp, layer by layer
#
# Each tensor has its own Gram matrix, its own projection and its own clamp
#
# $$\rho = \min\big(1,\ \beta\,\|g\| / \|P_S A\|\big), \quad \|P_S A\|^2 = w^\top K w, \quad \|g\|^2 = a^\top K a ,$$
#
# so what is removed may differ from layer to layer. `Proma(record=True)` writes it down. Take the digits bandit after
# some training, and send one batch through as a single step, in microbatches of 8 sequences. Do it with the paper's
# $\beta = 0.5$, without a clamp, and with $\beta = 0$, which removes nothing and is plain accumulation. All three use
# the iterative method with its two sweeps. The exact projection, without a clamp, is there to compare.
#
# **Your guess**: without a clamp, which tensor loses the largest share? (a) the largest weight, (b) a weight in the
# middle, (c) the bias of the head, which has ten entries.

# %%
guess = ...
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
CLAMPED, FREE, EXACT = r"clamp $\beta = 0.5$", "no clamp", "exact, no clamp"
removed = {
    title: {name: mean_of(title, name, "removed_ratio") for name in parameters} for title in (CLAMPED, FREE, EXACT)
}
active = {name: mean_of(CLAMPED, name, "clamped") for name in parameters}
draw.removed(removed, active, {name: list(value.shape) for name, value in parameters.items()})
most = max(removed[FREE], key=removed[FREE].get)
assert not FULL or (most == "layers.4.bias" and min(active.values()) > 0.5)
assert removed[EXACT]["layers.4.bias"] > removed[FREE]["layers.4.bias"] > removed[CLAMPED]["layers.4.bias"]
words = f"Of {most}, two sweeps remove {removed[FREE][most]:.0%}, the exact projection {removed[EXACT][most]:.0%}. "
words += f"With the clamp it is {removed[CLAMPED][most]:.0%}. "
words += f"Of each tensor, the clamp is active in {min(active.values()):.0%} of the microbatches or more."
Outcome(guess, "c" if most == "layers.4.bias" else "a", words)

# %% [markdown]
# The head's bias has ten entries, and eight sequences span much of its space. That is why so much of it goes without a
# clamp. The clamp limits what may be removed to half the norm of what is added, and it is active in most microbatches.
# So in practice **the clamp decides** how much is removed. This is what it does to the running gradient:

# %%
lengths = {title: values / steps["plain accumulation"][1][-1] for title, (_, values) in steps.items()}
draw.lengths(lengths, list(parameters))
ends = {title: values[-1] for title, values in lengths.items()}
assert not FULL or ((ends[FREE] < 0.75).all() and (ends[FREE] < ends[CLAMPED]).all())
table(
    ["length at the end, plain accumulation = 1", *(f"`{name}`" for name in parameters)],
    [[title, *(f"{end:.2f}" for end in ends[title])] for title in (CLAMPED, FREE, EXACT)],
)

# %% [markdown]
# In the figure, each column is a layer, its weight above its bias. Without a clamp, $A$ ends shorter in every tensor:
# what a microbatch takes out balances what it puts in, so old microbatches fade. With the clamp, $A$ is longer at the
# end than without, because no microbatch may take out more than half the norm of what it adds.

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
#     D, X = layout.group(grad_output), layout.group(inputs[0])
#     return {"weight": Dense(X.transpose(1, 2) @ D), "bias": Dense(D.sum(dim=1))}
#
#
# register_rule(Affine)(affine_rule)  # from here on, Proma covers the layer
# check.affine_rule(Affine, affine_rule)
# ```
#
# For a large layer, `OuterProducts(X, D, X.dtype)` from `proma_bench.backward.factors` keeps the factors, and leaves it
# to the engine whether $S$ is ever written out.
# </details>

# %% [markdown]
# **2. Sequences of unequal length.** Packed text has all tokens in one row, and `ids[n]` says whose token $n$ is.
# Compute the Gram matrix `[B, B]` from `D [N, out]`, `X [N, in]` and `ids [N]`, without writing out any sequence
# gradient. `sequences` is $B$; the tokens of a sequence need not be neighbours.


# %%
def packed_gram(D, X, ids, sequences): ...


check.packed_gram(packed_gram)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def packed_gram(D, X, ids, sequences):
#     pairs = (D @ D.T) * (X @ X.T)
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
#
# Next: [5 · A transformer that learns to add](5_a_transformer_that_learns_to_add.ipynb), where the policy is a language
# model.
