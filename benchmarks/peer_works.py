"""What the peers are compared on: models whose passes are timed, and tiny models of many kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from benchmarks.settings import Settings
from benchmarks.works import SEQUENCES, qwen3

LogProbs = Callable[[Callable[..., Any], Tensor], Tensor]
"""(a module or a function like it, inputs [B, ...]) -> the log-probs of the sequences, [B]."""
Draw = Callable[[torch.Generator], Tensor]


class Micro(NamedTuple):
    """A microbatch of ``B`` sequences."""

    inputs: Tensor
    advantages: Tensor


@dataclass(frozen=True)
class PeerWork:
    """A module, its log-probs, and two microbatches: what is compared is the second, which finds a running gradient."""

    name: str
    make: Callable[[], nn.Module] = field(repr=False)  # what pytest-benchmark stores of a work is its repr
    log_probs: LogProbs = field(repr=False)
    microbatches: tuple[Micro, Micro] = field(repr=False)

    def module(self) -> nn.Module:
        """The module, with the same weights every time."""
        torch.manual_seed(0)
        return self.make()


def timed_works(settings: Settings) -> list[PeerWork]:
    """A transformer at two lengths, once more with a head of its own, and a network that every peer knows."""
    if settings.full:
        sizes, vocabulary, lengths, width = (512, 1536, 4, 8, 4, 64), 4096, (128, 256), 512
    else:
        sizes, vocabulary, lengths, width = (64, 128, 2, 4, 2, 16), 97, (8, 16), 32

    def transformer(tokens: int, *, tied: bool) -> PeerWork:
        name = f"Qwen3, {sizes[2]} blocks of {sizes[0]}{'' if tied else ', untied'}, {SEQUENCES} × {tokens}"
        make = language_model(Qwen3ForCausalLM, qwen3(*sizes, vocabulary), tie_word_embeddings=tied)
        return peer_work(name, make, of_tokens, _tokens(vocabulary, SEQUENCES, tokens), settings)

    return [
        *(transformer(tokens, tied=True) for tokens in lengths),
        transformer(lengths[0], tied=False),
        peer_work(
            f"MLP of {width}, {SEQUENCES} × {lengths[0]}",
            lambda: mlp(width),
            of_actions,
            _vectors(width, SEQUENCES, lengths[0]),
            settings,
        ),
    ]


def kinds(settings: Settings) -> list[PeerWork]:
    """Tiny models of kinds that people train."""

    def vectors(name: str, make: Callable[[], nn.Module]) -> PeerWork:
        return peer_work(name, make, of_actions, _vectors(WIDTH, FEW, 6), settings)

    def tokens(name: str, make: Callable[[], nn.Module]) -> PeerWork:
        return peer_work(name, make, of_tokens, _tokens(VOCABULARY, FEW, 8), settings)

    tiny = qwen3(WIDTH, 64, 2, 4, 2, 8, VOCABULARY)
    no_dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"))
    gpt2 = GPT2Config(vocab_size=VOCABULARY, n_positions=16, n_embd=WIDTH, n_layer=2, n_head=4, **no_dropout, **ends)
    experts = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        decoder_sparse_step=1,
        router_aux_loss_coef=0.0,
    )
    return [
        vectors("linear layers", lambda: mlp(WIDTH)),
        vectors("nn.LayerNorm", lambda: nn.Sequential(nn.LayerNorm(WIDTH), *mlp(WIDTH))),
        vectors("nn.RMSNorm", lambda: nn.Sequential(nn.RMSNorm(WIDTH), *mlp(WIDTH))),
        vectors("convolution", Convolution),
        vectors("nn.LSTM", Recurrent),
        vectors("nn.TransformerEncoderLayer", lambda: nn.TransformerEncoderLayer(WIDTH, 4, 64, 0.0, batch_first=True)),
        vectors("a parameter of a container", Scaled),
        vectors("a layer that is called twice", Twice),
        vectors("weight normalisation", lambda: weight_norm(nn.Linear(WIDTH, ACTIONS))),
        tokens("Qwen3, untied", language_model(Qwen3ForCausalLM, tiny, tie_word_embeddings=False)),
        tokens("Qwen3, tied embedding and head", language_model(Qwen3ForCausalLM, tiny, tie_word_embeddings=True)),
        tokens("Qwen3, gradient checkpointing", lambda: _checkpointed(Qwen3ForCausalLM(tiny))),
        tokens("GPT-2", language_model(GPT2LMHeadModel, gpt2)),
        tokens("Qwen3-MoE, experts", language_model(Qwen3MoeForCausalLM, experts)),
    ]


WIDTH, ACTIONS, VOCABULARY, FEW = 32, 12, 97, 4


def peer_work(
    name: str, make: Callable[[], nn.Module], log_probs: LogProbs, draw: Draw, settings: Settings
) -> PeerWork:
    """With two microbatches of other random inputs, the same every time."""
    generator = torch.Generator().manual_seed(3)

    def microbatch() -> Micro:
        inputs = draw(generator)
        if inputs.is_floating_point():
            inputs = inputs.to(settings.dtype)
        return Micro(inputs.to(settings.device), torch.randn(len(inputs), generator=generator).to(settings.device))

    return PeerWork(name, lambda: make().to(settings.device, settings.dtype), log_probs, (microbatch(), microbatch()))


def of_tokens(model: Callable[..., Any], tokens: Tensor) -> Tensor:
    """The log-probs of sequences of tokens."""
    logits = model(tokens[:, :-1], use_cache=False).logits
    losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return -losses.view(len(tokens), -1).sum(dim=1)


def of_actions(model: Callable[..., Any], inputs: Tensor) -> Tensor:
    """The log-probs of episodes; which action was taken is a function of the observation."""
    log_probs = model(inputs).log_softmax(dim=-1)
    actions = inputs[..., : log_probs.shape[-1]].argmax(dim=-1, keepdim=True)
    return log_probs.gather(-1, actions).squeeze(-1).sum(dim=1)


def language_model(model_type: type[PreTrainedModel], config: Any, **changes: Any) -> Callable[[], nn.Module]:
    return lambda: model_type(type(config).from_dict(config.to_dict() | changes))


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)
    )


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv1d(WIDTH, 8, 3, padding=1), nn.Linear(8, ACTIONS)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.convolution(inputs.mT).mT)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(WIDTH, 8, batch_first=True), nn.Linear(8, ACTIONS)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.lstm(inputs)[0])


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(WIDTH))
        self.head = nn.Linear(WIDTH, ACTIONS)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.scale * inputs)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, ACTIONS)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.inner(self.inner(inputs).tanh()))


def _checkpointed(model: PreTrainedModel) -> PreTrainedModel:
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def _tokens(vocabulary: int, sequences: int, length: int) -> Draw:
    return lambda generator: torch.randint(vocabulary, (sequences, length + 1), generator=generator)


def _vectors(width: int, sequences: int, length: int) -> Draw:
    return lambda generator: torch.randn(sequences, length, width, generator=generator)
