"""Small policies for the engine's tests, and a microbatch of them in each layout."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from oracle import Micro, oracle_gradients
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from proma_bench import ProjectionConfig, Proma

EXACT, ITERATIVE, RIDGE = (ProjectionConfig(method) for method in ("exact", "iterative", "ridge"))
CONFIGS = [EXACT, ITERATIVE, RIDGE, ProjectionConfig("exact", max_removed=None, shrinkage=0.7)]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
VOCABULARY = 17


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def initialise(module: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Weights from an explicit generator, gains and offsets away from their uninformative start."""
    module = module.to(dtype)
    generator = seeded(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if parameter.ndim == 1:
                parameter.add_(0.5)
    return module


class Classifier(nn.Module):
    """An MLP over vectors; an action is a class."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 24), nn.ReLU(inplace=True), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 5)
        )

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows)


class TokenPolicy(nn.Module):
    """Next-token logits with everything awkward: a tied head, modules called twice, and norms."""

    def __init__(self, checkpointed: bool | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 12)
        self.mix = nn.Linear(12, 12)
        self.norm, self.rms = nn.LayerNorm(12), nn.RMSNorm(12)
        self.head = nn.Linear(12, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self.checkpointed = checkpointed

    def block(self, hidden: Tensor) -> Tensor:
        hidden = hidden + F.relu(self.mix(self.norm(hidden)), inplace=True)
        return hidden + self.mix(self.rms(hidden)).tanh()

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        if self.checkpointed is None:
            hidden = self.block(hidden)
        else:
            hidden = checkpoint(self.block, hidden, use_reentrant=self.checkpointed)
        return self.head(hidden)


def token_log_probs(logits: Tensor, actions: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)


class TokenMicro:
    """Sequences of unequal length, as a padded batch, flattened, or packed."""

    def __init__(self, seed: int, lengths: tuple[int, ...] = (3, 7, 1, 5, 7)) -> None:
        generator = seeded(seed)
        self.lengths = torch.tensor(lengths)
        self.tokens = [torch.randint(VOCABULARY, (n,), generator=generator) for n in lengths]
        self.actions = [torch.randint(VOCABULARY, (n,), generator=generator) for n in lengths]
        self.advantages = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
        self.advantages[0] = 0.0  # it still names a direction

    def alone(self, module: nn.Module, i: int) -> Tensor:
        logits = module(self.tokens[i].unsqueeze(0))
        return token_log_probs(logits, self.actions[i].unsqueeze(0)).sum()

    def padded(self, module: nn.Module) -> tuple[Tensor, None]:
        tokens = nn.utils.rnn.pad_sequence(self.tokens, batch_first=True)
        actions = nn.utils.rnn.pad_sequence(self.actions, batch_first=True)
        mask = torch.arange(tokens.shape[1]) < self.lengths.unsqueeze(1)
        return torch.where(mask, token_log_probs(module(tokens), actions), 0).sum(1), None

    def rows(self, module: nn.Module, leading: tuple[int, ...], order: Tensor) -> tuple[Tensor, Tensor]:
        ids = torch.arange(len(self.lengths)).repeat_interleave(self.lengths)[order]
        tokens, actions = torch.cat(self.tokens)[order], torch.cat(self.actions)[order]
        log_probs = token_log_probs(module(tokens.reshape(leading)), actions.reshape(leading)).flatten()
        return log_probs.new_zeros(len(self.lengths)).index_add(0, ids, log_probs), ids.reshape(leading)

    def flattened(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        order = torch.randperm(int(self.lengths.sum()), generator=seeded(1))  # rows need not be in order
        return self.rows(module, (-1,), order)

    def packed(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        return self.rows(module, (1, -1), torch.arange(int(self.lengths.sum())))

    @property
    def micro(self) -> Micro:
        return Micro(self.alone, self.advantages)


MICROS = [TokenMicro(1), TokenMicro(2, (4, 4, 2)), TokenMicro(3, (6,)), TokenMicro(4, (2, 9, 9, 1, 3, 5))]


def run(module: nn.Module, layout: str, config: ProjectionConfig, **options: Any) -> None:
    with Proma(module, config, **options) as proma:
        for micro in MICROS:
            log_probs, ids = getattr(micro, layout)(module)
            proma.backward(log_probs, micro.advantages.to(log_probs.dtype), ids)


def expected(module: nn.Module, config: ProjectionConfig) -> dict[str, Tensor]:
    return oracle_gradients(copy.deepcopy(module).double(), [micro.micro for micro in MICROS], config)
