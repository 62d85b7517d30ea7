"""Checks of lesson 8, *Your own update on the ladder*."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from checks import exercise, explaining, normal, saying, tensor
from proma_bench.testing import (
    SOUND_RULE_INVARIANTS,
    assert_rule_scale_equivariant,
    check_rule,
)

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]
Method = Mapping[float, tuple[float, Mapping[int, float]]]

PER_SEQUENCE = "There is one coefficient for each sequence of each tensor, [P, B]"


@exercise
def exact(answer: Rule) -> str:
    """The exact projection without a clamp, as a rule."""
    for tensors, sequences in ((1, 4), (3, 4), (5, 3)):
        running, seq_grads, advantages = _drawn(tensors, sequences)
        problem = seq_grads @ seq_grads.mT, (seq_grads @ running.unsqueeze(-1)).squeeze(-1), advantages
        u = _coefficients(answer, problem)
        step = running + torch.einsum("pb,pbn->pn", u - advantages, seq_grads)
        left = float((seq_grads @ step.unsqueeze(-1)).abs().max())
        assert not torch.allclose(u, advantages), "That is plain accumulation: nothing of A has been taken out."
        assert not torch.allclose(u, 2 * advantages - _truth(running, seq_grads, advantages)), (
            "The sign is the wrong way round: what lies along the new sequences is subtracted, u = a − w."
        )
        assert not torch.allclose(u, advantages - problem[1]), "Those are the overlaps c; the weights are w = K⁺c."
        assert left < 1e-8, (
            f"Without the new gradients' own part, what is left of A still has an overlap of {left:.2g} with one of "
            f"the sequences ({tensors} tensors of {sequences} sequences). Each tensor has its own K and c: u = a − K⁺c."
        )
        assert torch.allclose(u, _truth(running, seq_grads, advantages)), (
            "The new gradients must keep their advantages."
        )
    running, seq_grads, advantages = _drawn(2, 3)
    seq_grads = torch.cat([seq_grads, seq_grads[:, :1], torch.zeros_like(seq_grads[:, :1])], dim=1)
    advantages = torch.cat([advantages, advantages[:, :2]], dim=1)
    problem = seq_grads @ seq_grads.mT, (seq_grads @ running.unsqueeze(-1)).squeeze(-1), advantages
    with explaining(
        RuntimeError, "A sample that occurs twice, or a gradient of zero, makes K singular: take a pseudo-inverse"
    ):
        u = _coefficients(answer, problem)
    step = running + torch.einsum("pb,pbn->pn", u - advantages, seq_grads)
    assert (seq_grads @ step.unsqueeze(-1)).abs().max() < 1e-6, (
        "With a sample that occurs twice and a gradient of zero, something is left. Such a K has no inverse: take a "
        "pseudo-inverse, and mind its cut."
    )
    return "One call for all tensors of a policy, and samples may repeat."


def _truth(running: Tensor, seq_grads: Tensor, advantages: Tensor) -> Tensor:
    """One tensor at a time, by least squares on whole gradients."""
    weights = [torch.linalg.lstsq(S.T, A.unsqueeze(1)).solution[:, 0] for A, S in zip(running, seq_grads, strict=True)]
    return advantages - torch.stack(weights)


@exercise
def shuffled(answer: Rule) -> str:
    """The control: as much along each sequence as `averaged` removes along the next one."""
    for tensors, sequences in ((1, 4), (3, 5)):
        running, seq_grads, advantages = _drawn(tensors, sequences)
        seq_grads[0, 1] = 0.0
        lengths = seq_grads.norm(dim=-1, keepdim=True)
        units = seq_grads / torch.where(lengths > 0, lengths, 1.0)
        problem = seq_grads @ seq_grads.mT, (seq_grads @ running.unsqueeze(-1)).squeeze(-1), advantages
        u = _coefficients(answer, problem)
        removed = torch.einsum("pb,pbn->pn", advantages - u, seq_grads)
        sizes = (units @ running.unsqueeze(-1)).squeeze(-1)
        own, other = (torch.einsum("pb,pbn->pn", size, units) for size in (sizes, sizes.roll(-1, dims=1)))
        before = torch.einsum("pb,pbn->pn", sizes.roll(1, dims=1), units)
        swapped = torch.einsum("pb,pbn->pn", torch.where(lengths[..., 0] > 0, problem[1], 0.0).roll(-1, 1), seq_grads)
        for suspect, words in (
            (torch.zeros_like(removed), "Nothing is removed: this is plain accumulation"),
            (own / sequences, "This is `averaged` itself: each part is along its own sequence"),
            (other, "That is the sum of the parts; `averaged` removes their mean, and a control removes as much"),
            (-other / sequences, "The sign is the wrong way round: parts are removed"),
            (before / sequences, "Sequence i must get the size of i + 1, not of i − 1"),
            (swapped / sequences, "Overlaps are no sizes: divide by the norms of both, of i + 1 and of i"),
        ):
            assert not torch.allclose(removed, suspect), f"{words}."
        assert torch.allclose(removed, other / sequences), (
            "Along each sequence, as much must go as `averaged` removes along the next one: c_j / |S_j| of the next "
            "one j, along S_i / |S_i|, over B."
        )
    with saying("A rule must bear whatever comes, such as gradients of zero"):
        check_rule(answer, invariants=(*SOUND_RULE_INVARIANTS, assert_rule_scale_equivariant), examples=30)
    return "As many parts, of the same sizes, along other sequences. Whatever `averaged` has over it is due to *which*."


@exercise
def fair(answer: Callable[[Method, Method, float], Sequence[float]]) -> str:
    """Differences of paired seeds at equal local KL."""
    mine = {
        0.01: (0.04, {0: 0.9, 1: 0.7, 3: 0.8}),
        0.005: (0.018, {0: 0.5, 1: 0.25, 3: 0.375}),
        0.0025: (0.006, {0: 0.1}),
    }
    theirs = {
        0.0025: (0.011, {2: 0.0625, 1: 0.0, 0: 0.125}),
        0.005: (0.021, {2: 0.5, 1: 0.5, 0: 0.625}),
        0.01: (0.05, {2: 0.75, 1: 1.0, 0: 0.875}),
    }
    for target, wanted in ((0.013, [0.375, 0.25]), (0.02, [-0.125, -0.25]), (0.05, [0.025, -0.3])):
        with explaining(KeyError, "A seed may have run on one side only, and each method has its own learning rates"):
            found = answer(mine, theirs, target)
        what = "Return the differences, one for each seed that is on both sides"
        assert isinstance(found, list | tuple | Tensor) or type(found).__module__ == "numpy", f"{what}."
        given = sorted(round(value, 9) for value in tensor(found, (2,), what).tolist())
        same_rate = sorted(round(mine[0.005][1][seed] - theirs[0.005][1][seed], 9) for seed in (0, 1))
        assert given == sorted(wanted) or given != same_rate, (
            "These are at one learning rate, where the two have moved by different amounts. Compare where the local "
            "KL is alike."
        )
        assert given != sorted(-value for value in wanted), "The sign is the wrong way round: mine minus theirs."
        assert given == sorted(wanted), (
            f"At a local KL of {target:g}, the differences are {wanted}; yours are {given}. Take of each method the "
            "rate whose local KL is nearest to the target, and pair by seed."
        )
    return "What a larger step buys has dropped out, and so has what a seed does."


# ----------------------------------------------------------------------------------------------------- helpers


def _drawn(tensors: int, sequences: int) -> tuple[Tensor, Tensor, Tensor]:
    """Running gradients [P, n], sequence gradients [P, B, n] and advantages [P, B]."""
    draw = normal(10 * tensors + sequences)
    return draw(tensors, 7), draw(tensors, sequences, 7), draw(tensors, sequences)


def _coefficients(answer: Rule, problem: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return tensor(answer(*problem), tuple(problem[2].shape), PER_SEQUENCE)
