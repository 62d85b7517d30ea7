"""Small policies and the optimizer step that trains them, as in `proma_bench.update`: the works of the small tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.settings import Settings
from benchmarks.works import qwen3, sharing_copy, token_log_probs
from proma_bench import ProjectionConfig, Proma
from proma_bench.tiers.bandit.tier import BanditPolicy

MICROBATCH = 8
LEARNING_RATE = 1e-7  # the policies stay where they are, so that every round does the same work


class Part(NamedTuple):
    """Some sequences of an optimizer step; ``sequence_ids`` where a row is not a sequence."""

    inputs: Tensor
    actions: Tensor
    advantages: Tensor
    sequence_ids: Tensor | None = None


class Small(NamedTuple):
    """A policy, the sequences of one optimizer step cut into microbatches, and all of them in one part."""

    policy: nn.Module
    log_probs: Callable[[nn.Module, Part], Tensor]
    microbatches: list[Part]
    whole: Part


class SmallCase(NamedTuple):
    id: str
    name: str
    make: Callable[[Settings], Small]


def bandit(settings: Settings) -> Small:
    """The bandit tier's MLP on an optimizer step of its default size."""
    generator = torch.Generator().manual_seed(0)
    count = 256 if settings.full else 64
    whole = Part(
        torch.rand(count, 64, generator=generator),
        torch.randint(10, (count,), generator=generator),
        torch.randn(count, generator=generator),
    )
    return _on(settings, BanditPolicy(64, generator), _row_log_probs, _split(whole), whole)


def gym(settings: Settings) -> Small:
    """An MLP with two hidden layers of 64 on episodes of 20 to 200 steps, flattened."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    episodes, longest = (32, 200) if settings.full else (16, 60)
    lengths = torch.randint(20, longest, (episodes,), generator=generator)
    ids = torch.arange(episodes).repeat_interleave(lengths)
    whole = Part(
        torch.randn(len(ids), 4, generator=generator),
        torch.randint(2, (len(ids),), generator=generator),
        torch.randn(episodes, generator=generator),
        ids,
    )
    return _on(settings, policy, _row_log_probs, _split_episodes(whole), whole)


def tiny_qwen3(settings: Settings) -> Small:
    """A Qwen3 of 0.8 million parameters on 8 × 20 tokens per microbatch."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    from transformers import Qwen3ForCausalLM

    layers, count = (4, 64) if settings.full else (2, 32)
    policy = Qwen3ForCausalLM(qwen3(128, 384, layers, 4, 2, 32, 64))
    tokens = torch.randint(64, (count, 21), generator=generator)
    whole = Part(tokens, tokens, torch.randn(count, generator=generator))
    return _on(settings, policy, _answer_log_probs, _split(whole), whole)


CASES = (
    SmallCase("bandit", "bandit MLP", bandit),
    SmallCase("gym", "gym MLP", gym),
    SmallCase("tiny-qwen3", "tiny Qwen3, 8 × 20", tiny_qwen3),
)


def contenders(small: Small) -> dict[str, Callable[[], None]]:
    """One optimizer step with REINFORCE and with PROMA, at microbatches of 8.

    PROMA takes one backward pass per microbatch, or one for all of them ("virtual microbatches"), or the latter with
    the statistics that a training run records.
    """
    steps = {"REINFORCE": _reinforce(small)}
    for method in ("iterative", "exact"):
        steps[f"PROMA {method}"] = _proma(small, small.microbatches, method)
        steps[f"PROMA {method}, virtual"] = _proma(small, [small.whole], method)
    steps["PROMA iterative, virtual, recorded"] = _proma(small, [small.whole], "iterative", record=True)
    return steps


def _reinforce(small: Small) -> Callable[[], None]:
    policy, optimizer = _trainable(small)

    def step() -> None:
        for part in small.microbatches:
            (-(part.advantages * small.log_probs(policy, part)).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _proma(small: Small, parts: Sequence[Part], method: str, *, record: bool = False) -> Callable[[], None]:
    policy, optimizer = _trainable(small)
    proma = Proma(policy, ProjectionConfig(method), record=record)

    def step() -> None:
        for part in parts:
            log_probs = small.log_probs(policy, part)
            proma.backward(log_probs, part.advantages, part.sequence_ids, microbatch_size=MICROBATCH)
        if record:
            proma.stats()
            proma.clear_stats()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _trainable(small: Small) -> tuple[nn.Module, torch.optim.Optimizer]:
    policy = sharing_copy(small.policy)
    return policy, torch.optim.Adam(policy.parameters(), lr=LEARNING_RATE)


def _row_log_probs(policy: nn.Module, part: Part) -> Tensor:
    rows = policy(part.inputs).log_softmax(dim=1).gather(1, part.actions.unsqueeze(1)).squeeze(1)
    if part.sequence_ids is None:
        return rows
    return rows.new_zeros(len(part.advantages)).index_add(0, part.sequence_ids, rows)


def _answer_log_probs(policy: nn.Module, part: Part) -> Tensor:
    return token_log_probs(policy, part.inputs).sum(dim=1)


def _split(whole: Part) -> list[Part]:
    pieces = (whole.inputs, whole.actions, whole.advantages)
    return [Part(*rows) for rows in zip(*(piece.split(MICROBATCH) for piece in pieces), strict=True)]


def _split_episodes(whole: Part) -> list[Part]:
    assert whole.sequence_ids is not None
    parts = []
    for first in range(0, len(whole.advantages), MICROBATCH):
        rows = (whole.sequence_ids >= first) & (whole.sequence_ids < first + MICROBATCH)
        advantages = whole.advantages[first : first + MICROBATCH]
        parts.append(Part(whole.inputs[rows], whole.actions[rows], advantages, whole.sequence_ids[rows] - first))
    return parts


def _on(
    settings: Settings,
    policy: nn.Module,
    log_probs: Callable[[nn.Module, Part], Tensor],
    microbatches: list[Part],
    whole: Part,
) -> Small:
    """All of it on the device; in float32, as small policies are trained."""

    def move(part: Part) -> Part:
        return Part(*(None if piece is None else piece.to(settings.device) for piece in part))

    return Small(policy.to(settings.device), log_probs, [move(part) for part in microbatches], move(whole))
