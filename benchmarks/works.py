"""The forward and backward passes that are compared: single layers, and transformers with random weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from benchmarks.settings import Settings


class Work(Protocol):
    """A module with one microbatch for it.

    linear_only: whether the literal hooks cover all of its parameters. layer: whether it is a single layer.
    """

    name: str
    sizes: dict[str, Any]
    linear_only: bool
    layer: bool
    advantages: Tensor

    def module(self) -> nn.Module:
        """The module, with the same weights every time."""

    def forward(self, module: nn.Module) -> Tensor:
        """What the backward pass starts from."""

    def backward(self, output: Tensor, weights: Tensor | None = None) -> None:
        """Backpropagate minus the sum of the sequences' log-probs, weighted where weights are given."""


class LayerWork:
    """One layer between a given input and a given output gradient: nothing else takes time."""

    layer = True

    def __init__(
        self,
        name: str,
        kind: str,
        make: Callable[[], nn.Module],
        inputs: Tensor,
        settings: Settings,
        *,
        linear_only: bool = False,
    ) -> None:
        sequences, tokens = inputs.shape[:2]
        self.name = name
        self.linear_only = linear_only
        self._make, self._settings = make, settings
        self.inputs = inputs.to(settings.device)
        if inputs.is_floating_point():
            self.inputs = self.inputs.to(settings.dtype).requires_grad_()  # as inside a network; hooks need it, too
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            shape = self.module()(self.inputs).shape
        self._seed = -torch.randn(shape, generator=generator).to(settings.device, settings.dtype)
        self.advantages = torch.randn(sequences, generator=generator).to(settings.device)
        self._weighted = self._seed * self.advantages.view(-1, *[1] * (len(shape) - 1)).to(settings.dtype)
        self.sizes = {"kind": kind, "sequences": sequences, "tokens": tokens}

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        return self._make().to(self._settings.device, self._settings.dtype)

    def forward(self, module: nn.Module) -> Tensor:
        self.inputs.grad = None
        return module(self.inputs)

    def backward(self, output: Tensor, weights: Tensor | None = None) -> None:
        output.backward(self._seed if weights is None else self._weighted)


class ModelWork:
    """A causal language model that scores random tokens."""

    layer, linear_only = False, False

    def __init__(
        self, name: str, kind: str, config: PretrainedConfig, sequences: int, tokens: int, settings: Settings
    ) -> None:
        self.name = name
        self._config, self._settings = config, settings
        generator = torch.Generator().manual_seed(3)
        shape = (sequences, tokens + 1)
        self.tokens = torch.randint(config.vocab_size, shape, generator=generator).to(settings.device)
        self.advantages = torch.randn(sequences, generator=generator).to(settings.device)
        self.sizes = {"kind": kind, "sequences": sequences, "tokens": tokens}

    def module(self) -> PreTrainedModel:
        torch.manual_seed(0)
        model_type = Qwen3ForCausalLM if isinstance(self._config, Qwen3Config) else LlamaForCausalLM
        return model_type(self._config).to(self._settings.device, self._settings.dtype)

    def forward(self, module: nn.Module) -> Tensor:
        return token_log_probs(module, self.tokens).sum(dim=1)

    def backward(self, output: Tensor, weights: Tensor | None = None) -> None:
        (-(output if weights is None else weights * output).sum()).backward()


def token_log_probs(model: nn.Module, tokens: Tensor) -> Tensor:
    """The log-probabilities of each token after the first, [B, T]."""
    logits = model(tokens[:, :-1], use_cache=False).logits
    return -F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none").view(
        len(tokens), -1
    )


def sharing_copy(module: nn.Module) -> nn.Module:
    """A copy with gradients of its own that shares the weights' memory; ties between parameters stay."""
    memo = {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, memo)


class TiedHead(nn.Module):
    """An embedding and the head that shares its weight, with nothing in between."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(width))
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens))


# ------------------------------------------------------------------------------------------------------ the lists

SEQUENCES = 8


class Case(NamedTuple):
    """A work that is made when its turn comes."""

    name: str
    make: Callable[[], Work]

    @property
    def id(self) -> str:
        """The name in ASCII, for pytest."""
        return self.name.replace("→", "-to-").replace("×", "x")


def layer_cases(settings: Settings) -> list[Case]:
    """Linear layers at three lengths, and one case for every other kind of layer."""
    if settings.full:
        width, wide, lengths, vocabulary = 1024, 3072, (256, 128, 64), 32000
    else:
        width, wide, lengths, vocabulary = 128, 384, (32, 16, 8), 1000
    longest = lengths[0]
    return [
        *(_linear(width, wide, length, settings) for length in lengths),
        _layer(
            f"Embedding {vocabulary}×{width}",
            lambda: nn.Embedding(vocabulary, width),
            _tokens(vocabulary, longest),
            settings,
        ),
        _tied_head(vocabulary, width, lengths[1], settings),
        _layer(f"LayerNorm {width}", lambda: nn.LayerNorm(width), _vectors(width, longest), settings),
        _layer(f"RMSNorm {width}", lambda: nn.RMSNorm(width), _vectors(width, longest), settings),
    ]


def model_cases(settings: Settings) -> list[Case]:
    """Four blocks of Qwen3-0.6B and the architecture of SmolLM2-135M, or small siblings of both."""
    if settings.full:
        return [
            _model("four Qwen3-0.6B blocks", qwen3(1024, 3072, 4, 16, 8, 128, 32000), 256, settings),
            _model("SmolLM2-135M", llama(576, 1536, 30, 9, 3, 49152), 128, settings),
        ]
    return [
        _model("two small Qwen3 blocks", qwen3(128, 384, 2, 4, 2, 32, 512), 32, settings),
        _model("a small Llama", llama(96, 256, 4, 3, 1, 512), 16, settings),
    ]


def small_network(settings: Settings) -> Case:
    """The smallest thing that anybody trains, whose passes are too short to hide any fixed cost."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))

    return _layer("MLP 64→64→64→10", make, _vectors(64, 16), settings)


def memory_cases(settings: Settings) -> list[Case]:
    """Layers whose sequence gradients exceed the workspace (`memory_limit`), and the models."""
    if settings.full:
        return [
            _linear(1024, 3072, 256, settings),
            _linear(4096, 12288, 32, settings),
            _tied_head(151936, 1024, 32, settings),
            *model_cases(settings),
        ]
    return [_linear(1024, 1024, 32, settings), _tied_head(16384, 128, 16, settings), *model_cases(settings)]


def memory_limit(settings: Settings) -> int:
    """The workspace's limit in bytes: the default, or for the small forms one that they reach."""
    return (256 if settings.full else 16) * 2**20


def _linear(width: int, wide: int, length: int, settings: Settings) -> Case:
    def make() -> nn.Module:
        return nn.Linear(width, wide, bias=False)

    return _layer(f"Linear {width}→{wide}", make, _vectors(width, length), settings, linear_only=True)


def _tied_head(vocabulary: int, width: int, length: int, settings: Settings) -> Case:
    kind = f"tied embedding and head {vocabulary}×{width}"
    return _layer(kind, lambda: TiedHead(vocabulary, width), _tokens(vocabulary, length), settings)


def _layer(
    kind: str, make: Callable[[], nn.Module], draw: Draw, settings: Settings, *, linear_only: bool = False
) -> Case:
    name = f"{kind}, {SEQUENCES} × {draw.tokens}"
    return Case(name, lambda: LayerWork(name, kind, make, draw(), settings, linear_only=linear_only))


def _model(kind: str, config: PretrainedConfig, tokens: int, settings: Settings) -> Case:
    name = f"{kind}, {SEQUENCES} × {tokens}"
    return Case(name, lambda: ModelWork(name, kind, config, SEQUENCES, tokens, settings))


@dataclass(frozen=True)
class Draw:
    """Random inputs, the same at every call."""

    tokens: int
    sample: Callable[[torch.Generator], Tensor]

    def __call__(self) -> Tensor:
        return self.sample(torch.Generator().manual_seed(1))


def _vectors(width: int, length: int) -> Draw:
    return Draw(length, lambda generator: torch.randn(SEQUENCES, length, width, generator=generator))


def _tokens(vocabulary: int, length: int) -> Draw:
    return Draw(length, lambda generator: torch.randint(vocabulary, (SEQUENCES, length), generator=generator))


QWEN3_SIZES = {
    "vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip
"""Of Qwen3-0.6B, by the names of `Qwen3Config`."""


def qwen3(
    width: int, intermediate: int, layers: int, heads: int, kv_heads: int, head_dim: int, vocabulary: int
) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )


def llama(width: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
