"""A transformer that learns to add: entropy, silent groups, what a token weighs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from checks import exercise

MASK = torch.tensor([[True, True, True, True], [True, False, False, False], [True, True, False, False]])


@exercise
def entropy(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    logits = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    of_tokens = torch.distributions.Categorical(logits=logits).entropy()
    found, expected = float(answer(logits, MASK)), float(of_tokens[MASK].mean())
    for suspect, words in (
        (of_tokens.mean(), "this counts padding as if it were text"),
        ((of_tokens * MASK).mean(), "padding adds nothing here, but still counts in the number of tokens"),
        (
            ((of_tokens * MASK).sum(1) / MASK.sum(1)).mean(),
            "this is a mean over answers, so tokens of short ones weigh more",
        ),
        (-expected, "the entropy is never negative: mind the sign"),
        (expected / torch.tensor(2.0).log(), "these are bits; everything here is in nats"),
    ):
        assert abs(found - float(suspect)) > 1e-9, f"Almost: {words}."
    assert abs(found - expected) < 1e-9, f"Expected {expected:.4f} nats, got {found:.4f}."
    certain = torch.full((3, 4, 5), -torch.inf, dtype=torch.float64)
    certain[..., 0] = 0
    lowest = float(answer(certain.clamp_min(-1e4), MASK))
    assert abs(lowest) < 1e-9, f"A policy that is certain has no entropy; yours is {lowest:.3g}."
    return "That is what the runs record, token by token."


@exercise
def silences(answer: Callable[[Tensor, int], tuple[float, float]]) -> str:
    rewards = torch.tensor([1, 1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 1.0])
    right, wrong = map(float, answer(rewards, 3))
    assert (right, wrong) != (0.4, 0.2), "The wrong way round: first the groups in which every answer is right."
    assert (right, wrong) != (1.0, 2.0), "These are numbers of groups; divide by how many groups there are."
    assert abs(right + wrong - 1) > 1e-6, "Groups that have both kinds of answers are not silent; they are left out."
    expected = (0.2, 0.4)
    assert abs(right - 0.2) < 1e-6 and abs(wrong - 0.4) < 1e-6, (
        f"Of the five groups one is all right and two are all wrong: {expected}; yours are ({right:.3g}, {wrong:.3g})."
    )
    return "Only the second kind is a loss."


@exercise
def weights(answer: Callable[[Tensor, str], Tensor]) -> str:
    real = MASK.double()
    lengths = real.sum(1, keepdim=True)
    expected = {"token-mean": real / real.sum(), "sequence-mean": real / lengths / len(MASK)}
    for name, wanted in expected.items():
        found = answer(MASK, name).double()
        assert found.shape == MASK.shape, f"{name}: one weight per token, {[*MASK.shape]}; yours are {[*found.shape]}."
        assert not found[~MASK].any(), f"{name}: padding weighs nothing."
        total = float(found.sum())
        assert abs(total - 1) < 1e-6, f"{name}: all weights together make 1; yours make {total:.3g}."
        other = expected["sequence-mean" if name == "token-mean" else "token-mean"]
        assert not torch.allclose(found, other), f"{name}: this is the other one."
        assert torch.allclose(found, wanted), f"{name}: expected {wanted.tolist()}."
    return "With the first, a long answer weighs more than a short one; with the second, its tokens weigh less."
