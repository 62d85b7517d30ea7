"""Why the projection is proximal: what it leaves does not move the policy at the microbatch, to second order."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from proma_bench.projection.literal import project
from proma_bench.testing import projection_problems

CONTEXTS, FEATURES, HIDDEN, ACTIONS = 2, 5, 7, 3
SIZES = (HIDDEN * FEATURES, ACTIONS * HIDDEN)


def norm(tensor):
    return float(torch.linalg.vector_norm(tensor.double()))


@given(projection_problems())
def test_the_empirical_fisher_matrix_does_not_see_what_is_left(problem):
    """``A'FA' = (1/B) sum <S_i, A'>^2`` is zero against ``||F|| ||A||^2`` after the exact projection."""
    rows, left = problem.seq_grads.reshape(len(problem.seq_grads), -1), project(problem.running, problem.seq_grads)

    def fisher(vector):
        return float((rows @ vector.flatten()).square().mean())

    bound = float(rows.square().sum(1).mean()) * norm(problem.running) ** 2
    assert fisher(left) <= 1e-20 * bound
    assert fisher(left) <= fisher(problem.running) + 1e-20 * bound


def log_policy(parameters, contexts):
    """A softmax policy with one hidden layer, [contexts, actions]; its parameters are one vector."""
    first, second = parameters.split(SIZES)
    hidden = torch.tanh(contexts @ first.reshape(HIDDEN, FEATURES).T)
    return (hidden @ second.reshape(ACTIONS, HIDDEN).T).log_softmax(-1)


def kl(parameters, step, contexts):
    before, after = log_policy(parameters, contexts), log_policy(parameters + step, contexts)
    return float((before.exp() * (before - after)).sum())


@given(st.integers(0, 2**31 - 1))
def test_along_the_projected_direction_the_exact_kl_is_of_fourth_order(seed):
    """The microbatch holds every action of two contexts. Half the step is a quarter of the KL along a plain direction,
    and a sixteenth along the projected one, where the logits change by the square of the step."""
    generator = torch.Generator().manual_seed(seed)
    contexts, parameters, direction = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((CONTEXTS, FEATURES), (sum(SIZES),), (sum(SIZES),))
    )
    scores = torch.func.jacrev(log_policy)(parameters, contexts).flatten(0, 1)  # [contexts * actions, parameters]
    projected = project(direction, scores)
    plain = direction / norm(direction)
    projected = projected / norm(projected)
    steps = (2e-2, 1e-2)
    along_plain = [kl(parameters, step * plain, contexts) for step in steps]
    along_projected = [kl(parameters, step * projected, contexts) for step in steps]
    assert all(less < 0.05 * more for less, more in zip(along_projected, along_plain, strict=True))
    assert 3.5 < along_plain[0] / along_plain[1] < 4.5
    assert along_projected[0] / along_projected[1] > 8 or along_projected[0] < 1e-12
    assert along_projected[0] <= 100 * steps[0] ** 4


def test_a_linear_policy_is_not_moved_at_all():
    """Logits linear in the parameters have no second order: the KL along the projected direction is zero."""
    generator = torch.Generator().manual_seed(0)
    weight, direction = (torch.randn(ACTIONS, FEATURES, generator=generator, dtype=torch.float64) for _ in range(2))
    context = torch.randn(FEATURES, generator=generator, dtype=torch.float64)
    before = (weight @ context).log_softmax(0)
    scores = torch.stack([torch.outer(row, context) for row in torch.eye(ACTIONS).double() - before.exp()])
    after = ((weight + project(direction, scores)) @ context).log_softmax(0)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-13)
    assert norm(((weight + direction) @ context).log_softmax(0) - before) > 0.1
