"""Answers to the exercises of lesson 5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from exercises import Exercise, integers
from torch import Tensor


def _tokens_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    lengths = torch.cat([torch.tensor([5]), integers(draw, 5, 2) + 1])
    return draw(3, 5, 7), torch.arange(5) < lengths[:, None]


def _rewards_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    return torch.cat([torch.ones(3), torch.zeros(3), (draw(3 * 9) > 0).float()]), 3


def _weights_problem(draw: Callable[..., Tensor]) -> tuple[Any, ...]:
    return _tokens_problem(draw)[1], "token-mean" if draw(1) > 0 else "sequence-mean"


def _of_tokens(logits: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=logits).entropy()


def _shares(right: Callable[[Tensor], Tensor], wrong: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    return lambda rewards, size: tuple(float(f(rewards.view(-1, size)).float().mean()) for f in (right, wrong))


def _by_name(token: Callable[[Tensor], Tensor], sequence: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    return lambda mask, name: (token if name == "token-mean" else sequence)(mask.double())


def _token_mean(real: Tensor) -> Tensor:
    return real / real.sum()


def _sequence_mean(real: Tensor) -> Tensor:
    return real / real.sum(1, keepdim=True) / len(real)


EXERCISES = [
    Exercise(
        5,
        "entropy",
        _tokens_problem,
        [
            lambda logits, mask: _of_tokens(logits)[mask].mean(),
            lambda logits, mask: float((_of_tokens(logits) * mask).sum() / mask.sum()),
        ],
        [
            (lambda logits, mask: _of_tokens(logits).mean(), "counts padding"),
            (lambda logits, mask: (_of_tokens(logits) * mask).mean(), "still counts in the number of tokens"),
            (lambda logits, mask: ((_of_tokens(logits) * mask).sum(1) / mask.sum(1)).mean(), "mean over answers"),
            (lambda logits, mask: -_of_tokens(logits)[mask].mean(), "never negative"),
            (lambda logits, mask: _of_tokens(logits)[mask].mean() / torch.tensor(2.0).double().log(), "in nats"),
            (lambda logits, mask: _of_tokens(logits)[mask].sum(), "the mean is asked for"),
            (lambda logits, mask: _of_tokens(logits)[mask], "one number"),
            (lambda logits, mask: (p := logits.softmax(-1)).mul(-p.log()).mean(-1)[mask].mean(), "Expected"),
            (lambda logits, mask: -(p := logits.softmax(-1)).mul(p.log()).sum(-1)[mask].mean(), "yours has NaN"),
        ],
    ),
    Exercise(
        5,
        "silences",
        _rewards_problem,
        [
            _shares(lambda g: (g == 1).all(1), lambda g: (g == 0).all(1)),
            lambda rewards, size: torch.stack(
                [(rewards.view(-1, size).sum(1) == n).double().mean() for n in (size, 0)]
            ),
        ],
        [
            (_shares(lambda g: (g == 0).all(1), lambda g: (g == 1).all(1)), "wrong way round"),
            (
                lambda r, n: (float((r.view(-1, n).sum(1) == n).sum()), float((r.view(-1, n).sum(1) == 0).sum())),
                "numbers of groups",
            ),
            (_shares(lambda g: g == 1, lambda g: g == 0), "shares of the answers"),
            (_shares(lambda g: (g == 1).any(1), lambda g: (g == 0).all(1)), ""),
            (_shares(lambda g: (g == 1).all(1), lambda g: ~(g == 1).all(1)), "are not silent"),
            (_shares(lambda g: g.mean(1) > 0.5, lambda g: g.mean(1) <= 0.5), "are not silent"),
            (lambda r, n: float((r.view(-1, n).std(1) == 0).float().mean()), "Return two shares"),
            (lambda r, n: ((s := r.view(n, -1).sum(0)).eq(n).double().mean(), s.eq(0).double().mean()), "yours are"),
            (lambda r, n: (1 / 3, 2 / 3), "shares of the silent groups"),
        ],
    ),
    Exercise(
        5,
        "weights",
        _weights_problem,
        [
            _by_name(_token_mean, lambda real: real / (real.sum(1, keepdim=True) * len(real))),
            _by_name(lambda real: real.div_(real.sum()), _sequence_mean),
        ],
        [
            (_by_name(_sequence_mean, _token_mean), "this is the other one"),
            (_by_name(_token_mean, _token_mean), "the other one"),
            (_by_name(lambda real: real, _sequence_mean), "all weights together"),
            (_by_name(lambda real: torch.ones_like(real) / real.numel(), _sequence_mean), "padding weighs nothing"),
            (_by_name(_token_mean, lambda real: real / real.sum(1, keepdim=True)), "all weights together"),
            (_by_name(lambda real: real / real.numel(), _sequence_mean), "all weights together"),
            (_by_name(_token_mean, lambda real: real / real.shape[1] / len(real)), "all weights together"),
            (_by_name(lambda real: 1 / real.sum(), _sequence_mean), "one weight per token"),
            (_by_name(_token_mean, lambda real: (r := real * real.sum(1, keepdim=True)) / r.sum()), "expected"),
        ],
    ),
]
