"""What the examples of training loops teach: a policy answers one of a few questions, and is rewarded if right."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

QUESTIONS, ANSWERS = 16, 4


def make_policy() -> nn.Module:
    """The same weights in each process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(QUESTIONS, 32), nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, ANSWERS))


def answered(policy: nn.Module, sequences: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Log-probs [B] of the answers to as many questions, and the rewards [B]."""
    questions = torch.randint(QUESTIONS, (sequences,)).to(device)
    distribution = Categorical(logits=policy(questions))
    answers = distribution.sample()
    log_probs = distribution.log_prob(answers)
    return log_probs, (answers == questions % ANSWERS).to(log_probs.dtype)
