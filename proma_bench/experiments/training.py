"""The training loop: sample, score, update, evaluate, record."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from proma_bench.backward.proma import Proma
from proma_bench.errors import DivergenceError, RunError, UsageError
from proma_bench.learning.config import RunConfig
from proma_bench.learning.experience import Experience
from proma_bench.learning.finite import require_finite_advantages, require_finite_metrics, require_usable_rewards
from proma_bench.learning.methods import method_named
from proma_bench.learning.metrics import Step, Unseen, measured
from proma_bench.learning.policy import Policy
from proma_bench.learning.rules import chosen_rule
from proma_bench.learning.update import optimizer_step
from proma_bench.projection.updates import AnyRule
from proma_bench.tiers import make_tier

STREAMS = ("weights", "initial_states", "actions", "order")

LARGE = 10**8
"""Parameters."""
MOST_UNSEEN = 64
"""Sequences that a step did not learn from, on which its local KL is measured as well."""

Metrics = dict[str, Any]
"""One optimizer step: the names of ``metrics.jsonl`` with their values."""


class Training:
    """One run in memory: the policy and everything that decides what comes next."""

    def __init__(self, config: RunConfig) -> None:
        """Begin.

        Raises:
            UsageError: the tier, or the method's update rule, refuses the settings.
        """
        self.config = config
        self.step = 0
        self.tier = make_tier(config)
        self.generators = {stream: _generator(config.seed, number) for number, stream in enumerate(STREAMS)}
        self.policy = self.tier.policy(self.generators["weights"])
        method = method_named(config.method)
        if method.needs_distributions and not self.policy.keeps_distributions:
            raise UsageError(
                f"method {config.method} needs the whole distributions of the policy, which the tier {config.tier} "
                "does not keep; take it on another tier, such as bandit or gym"
            )
        self.initial = self.policy.frozen()  # for measurement only
        self.optimizer = make_optimizer(self.policy, config)
        self.rule = chosen_rule(config) if method.projects else None
        self.sampler: Policy | None = None
        """The policy that has sampled the present batch, where the method needs it."""
        self.proma = None if self.rule is None else make_proma(self.policy, config, self.rule.rule)

    def sample(self) -> Experience:
        """One batch of sequences, with the method's advantages.

        Raises:
            DivergenceError: a number in it is not finite.
            RunError: it cannot be sampled.
        """
        try:
            if method_named(self.config.method).divergence == "exact":
                self.sampler = self.policy.frozen()
            experience = self.tier.sample(self.policy, self.generators)
        except DivergenceError:
            raise
        except RunError as error:
            raise RunError(f"optimizer step {self.step + 1}: {error}") from error
        require_usable_rewards(experience.rewards)
        advantages = method_named(self.config.method).advantages_function(experience.rewards, self.config.group_size)
        require_finite_advantages(advantages)
        return dataclasses.replace(experience, advantages=advantages.to(experience.old_log_probs.dtype))

    def batch(self) -> Iterator[Metrics]:
        """Sample one batch and take its optimizer steps, at most as many as the run still has.

        Raises:
            DivergenceError: a number of the next step is not finite. ``step`` is the last good one, but the policy may
                be damaged.
        """
        try:
            parts = list(self.sample().split(self.config.steps_per_batch))
            for number, part in enumerate(parts):
                if self.step < self.config.steps:
                    yield self._optimizer_step(part, parts[number - 1] if len(parts) > 1 else None)
        except DivergenceError as error:
            raise DivergenceError(error.reason, self.step + 1) from error

    def _optimizer_step(self, experience: Experience, others: Experience | None) -> Metrics:
        """Learn from sequences; ``others`` of the same batch are for measurement only."""
        started = time.perf_counter()
        order = self.generators["order"] if self.config.shuffle else None
        microbatches = experience.microbatches(self.config.microbatch_size, order, self.config.sort_by_length)
        with torch.no_grad():
            before, unseen = self.policy.on(experience), self._watch(others)
        self._warm_up()
        update_started = time.perf_counter()
        update = optimizer_step(self.policy, self.optimizer, microbatches, self.config, self.proma, self.sampler)
        update_seconds = time.perf_counter() - update_started
        with torch.no_grad():
            after = self.policy.on(experience)
            initial, rest = self.initial.on(experience), unseen()
        step = self.step + 1
        metrics = {
            "step": step,
            "reward": float(experience.rewards.mean()),
            **self._validation(step),
            **measured(Step(experience, before, after, initial, rest)),
            **update,
            "update_seconds": update_seconds,
            "seconds": time.perf_counter() - started,
            "sequences": len(experience),
            **_of_text(experience),
            **{name: int(flag.sum()) for name, flag in experience.flags.items()},
        }
        require_finite_metrics(metrics)
        self.step = step
        return metrics

    def _watch(self, others: Experience | None) -> Callable[[], Unseen | None]:
        """Keep the policy's distributions before a step; what is returned adds those after it."""
        if others is None:
            return lambda: None
        unseen = others.select(torch.arange(min(len(others), MOST_UNSEEN)))
        before = self.policy.on(unseen)
        return lambda: Unseen(unseen, before, self.policy.on(unseen))

    def _warm_up(self) -> None:
        """The learning rate of the coming step: it rises linearly to its value and stays there."""
        share = min(1.0, (self.step + 1) / max(1, self.config.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = share * self.config.learning_rate

    def _validation(self, step: int) -> dict[str, float | None]:
        """The scores of the policy; those that all tiers have are None where it is not validated."""
        if step % self.config.validate_every and step < self.config.steps:
            return {"score": None, "score_sampled": None}
        return self.tier.evaluate(self.policy)


def train(config: RunConfig) -> list[Metrics]:
    """Train from the start, keep nothing on disk, and return the metrics of every optimizer step."""
    training = Training(config)
    history: list[Metrics] = []
    while training.step < config.steps:
        history += training.batch()
    return history


def _of_text(experience: Experience) -> Metrics:
    """The number of tokens in the answers, and how far the sampler's log-probs were from the policy's, per token."""
    if experience.sampler_gaps is None:
        return {}
    gap = float(experience.sampler_gaps.sum()) / max(1, experience.rows)
    return {"tokens": experience.rows, "sampler_gap": gap}


def make_optimizer(policy: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """The optimizer; fused for a large policy, because other implementations hold copies of the largest tensor."""
    is_large = sum(parameter.numel() for parameter in policy.parameters()) >= LARGE
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(policy.parameters(), lr=rate, weight_decay=decay, fused=is_large)
    return torch.optim.AdamW(policy.parameters(), lr=rate, weight_decay=decay, fused=is_large)


def make_proma(policy: nn.Module, config: RunConfig, rule: AnyRule) -> Proma:
    """Proma with this rule, attached to the policy as the settings say, and recording."""
    linear = {f"{name}.weight" for name, module in policy.named_modules() if isinstance(module, nn.Linear)}
    others = [name for name, _ in policy.named_parameters() if name not in linear]  # a tied weight has another name
    return Proma(
        policy,
        rule,
        record=True,
        unprojected=others if config.projected == "linear" else (),
        uncovered=config.uncovered,
    )


def _generator(seed: int, stream: int) -> torch.Generator:
    """An independent stream of random numbers for each purpose, whatever the seeds are."""
    state = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
