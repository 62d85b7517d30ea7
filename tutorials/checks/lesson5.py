"""A transformer that learns to add: entropy, silent groups, what a token weighs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from checks import exercise, normal, number, pair, tensor

MASK = torch.tensor([[True, True, True, True], [True, False, False, False], [True, True, False, False]])
OTHER_MASK = torch.tensor([[True, True, True, False, False], [True, True, True, True, True]])


@exercise
def entropy(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    draw = normal(0)
    for mask in (MASK, OTHER_MASK):
        logits = 3 * draw(*mask.shape, 5)
        of_tokens = torch.distributions.Categorical(logits=logits).entropy()
        found = number(answer(logits, mask), "The mean entropy is one number")
        expected = float(of_tokens[mask].mean())
        for suspect, words in (
            (of_tokens.mean(), "this counts padding as if it were text"),
            ((of_tokens * mask).mean(), "padding adds nothing here, but still counts in the number of tokens"),
            ((of_tokens * mask).sum(), "this is the sum over the tokens; the mean is asked for"),
            (
                ((of_tokens * mask).sum(1) / mask.sum(1)).mean(),
                "this is a mean over answers, so tokens of short ones weigh more",
            ),
            (-expected, "the entropy is never negative: mind the sign"),
            (expected / math.log(2), "these are bits; everything here is in nats"),
        ):
            assert abs(found - float(suspect)) > 1e-9, f"Almost: {words}."
        assert abs(found - expected) < 1e-9, f"Expected {expected:.4f} nats, got {found:.4f}."
    certain = torch.full((*MASK.shape, 5), -1e4, dtype=torch.float64)
    certain[..., 0] = 0
    lowest = number(answer(certain, MASK), "A policy that is certain has an entropy of 0")
    assert abs(lowest) < 1e-9, f"A policy that is certain has no entropy; yours is {lowest:.3g}."
    return "That is what the runs record, token by token."


@exercise
def silences(answer: Callable[[Tensor, int], tuple[float, float]]) -> str:
    cases = [
        (torch.tensor([1, 1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 1.0]), 3),
        (
            torch.tensor(
                [0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 0, 1.0]
            ),
            4,
        ),
    ]
    for rewards, size in cases:
        groups = rewards.view(-1, size)
        sums = groups.sum(dim=1)
        count, all_right, all_wrong = len(groups), int((sums == size).sum()), int((sums == 0).sum())
        wanted = (all_right / count, all_wrong / count)
        found = pair(answer(rewards, size), "Return two shares: all right, all wrong")
        right, wrong = (number(share, "A share of the groups is one number") for share in found)
        for suspect, words in (
            (wanted[::-1], "The wrong way round: first the groups in which every answer is right"),
            ((all_right, all_wrong), "These are numbers of groups; divide by how many groups there are"),
            ((float(rewards.mean()), 1 - float(rewards.mean())), "These are shares of the answers, not of the groups"),
            (
                (all_right / (all_right + all_wrong), all_wrong / (all_right + all_wrong)),
                "These are shares of the silent groups; the others count, too",
            ),
        ):
            assert abs(right - suspect[0]) + abs(wrong - suspect[1]) > 1e-6, f"{words}."
        assert abs(right + wrong - 1) > 1e-6, "Groups that have both kinds of answers are not silent; leave them out."
        assert abs(right - wanted[0]) + abs(wrong - wanted[1]) < 1e-6, (
            f"Of {count} groups {all_right} are all right and {all_wrong} all wrong: {wanted}; yours are "
            f"({right:.3g}, {wrong:.3g})."
        )
    return "Only the second kind is a loss."


@exercise
def weights(answer: Callable[[Tensor, str], Tensor]) -> str:
    for mask in (MASK, OTHER_MASK):
        real = mask.double()
        expected = {
            "token-mean": real / real.sum(),
            "sequence-mean": real / real.sum(1, keepdim=True) / len(mask),
        }
        for name, wanted in expected.items():
            found = tensor(answer(mask, name), tuple(mask.shape), f"{name}: one weight per token, {[*mask.shape]}")
            assert not found[~mask].any(), f"{name}: padding weighs nothing."
            total = float(found.sum())
            assert abs(total - 1) < 1e-6, f"{name}: all weights together make 1; yours make {total:.3g}."
            other = expected["sequence-mean" if name == "token-mean" else "token-mean"]
            assert not torch.allclose(found, other), f"{name}: this is the other one."
            assert torch.allclose(found, wanted), f"{name}: expected {wanted.tolist()}."
    return "With the first, a long answer weighs more than a short one; with the second, its tokens weigh less."
