"""A tier: an MLP says whether the number of ones among eight bits is odd. Config and tier are all that it takes.

PROMA_BENCH_PLUGINS=examples/plugins/parity.py proma-bench run parity
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from proma_bench.learning.config import RunConfig
from proma_bench.learning.experience import Experience
from proma_bench.learning.mlp import mlp
from proma_bench.learning.policy import Generators, Policy

BITS = 8


@dataclass(frozen=True, kw_only=True)
class ParityConfig(RunConfig):
    """An MLP says whether the number of ones among eight bits is odd: reward 1 when it is right."""

    tier: ClassVar[str] = "parity"
    implementation: ClassVar[str] = f"{__name__}:Parity"
    height: ClassVar[int] = 10
    budgets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"steps": 4}, "quick": {}, "full": {"steps": 300}}
    sweep: ClassVar[dict[str, tuple[float, ...]]] = {"smoke": (0.005,), "quick": (0.005,), "full": (0.005, 0.01)}

    initial_states: int = 64
    """Bit strings per batch, each sampled group_size times."""


class ParityPolicy(Policy):
    """An MLP with two hidden layers, from bits to the logits of "even" and "odd"."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = mlp([BITS, 64, 64, 2], nn.ReLU, generator)

    def distribution(self, observations: Tensor) -> Categorical:
        return Categorical(logits=self.layers(observations), validate_args=False)


class Parity:
    """All bit strings; a quarter of them is for validation."""

    def __init__(self, config: ParityConfig) -> None:
        self.config = config
        numbers = torch.randperm(2**BITS, generator=torch.Generator().manual_seed(0))
        bits = numbers.unsqueeze(1).bitwise_right_shift(torch.arange(BITS)).bitwise_and(1).float()
        self.held_out, self.training = bits.split([2 ** (BITS - 2), 3 * 2 ** (BITS - 2)])

    def policy(self, generator: torch.Generator) -> ParityPolicy:
        return ParityPolicy(generator)

    @torch.no_grad()
    def sample(self, policy: ParityPolicy, generators: Generators) -> Experience:
        shape = (self.config.initial_states,)
        drawn = torch.randint(len(self.training), shape, generator=generators["initial_states"])
        observations = self.training[drawn].repeat_interleave(self.config.group_size, 0)
        distribution = policy.distribution(observations)
        actions = torch.multinomial(distribution.probs, 1, generator=generators["actions"]).squeeze(1)
        rewards = (actions == observations.sum(dim=1) % 2).float()
        return Experience(observations, actions, distribution.log_prob(actions), rewards)

    @torch.no_grad()
    def evaluate(self, policy: ParityPolicy) -> dict[str, float | None]:
        probs = policy.distribution(self.held_out).probs
        odd = self.held_out.sum(dim=1).long() % 2
        right = probs.gather(1, odd.unsqueeze(1))
        return {"score": float((right > 0.5).float().mean()), "score_sampled": float(right.mean())}
