"""How much of the old part's effect on a microbatch does a clamp leave? On the bandit, with gradients written out.

python -m benchmarks.clamp            print the table
python -m benchmarks.clamp --write    and store it in benchmarks/results/clamp/bandit.json (minutes)

Before a microbatch's gradient is added, PROMA turns the running gradient A into A'. Two shares, each a mean over
microbatches 8, 16 and 24 of 32, at seven steps of training, and over ten seeds:

- in the gradient's direction: sum_i <A', S_i>^2 / sum_i <A, S_i>^2 over the microbatch's sequences and all tensors,
  which is the ratio of the two KL divergences to second order, as the microbatch estimates them;
- after Adam's scaling: the exact KL divergence on the microbatch's images of a small step of Adam with the gradient A',
  over that of one with A. Momentum is left out: it is of earlier steps, and the same in both.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from proma_bench.experiments.training import Training
from proma_bench.learning.experience import Experience
from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.literal import accumulate
from proma_bench.report.markdown import markdown_table
from proma_bench.report.statistics import interval
from proma_bench.tiers.bandit.config import BanditConfig

STORED = Path(__file__).parent / "results" / "clamp" / "bandit.json"
PROJECTIONS = {
    "0.25": ProjectionConfig(max_removed=0.25),
    "0.5": ProjectionConfig(max_removed=0.5),
    "1": ProjectionConfig(max_removed=1.0),
    "none": ProjectionConfig(max_removed=None),
    "none, exact projection": ProjectionConfig("exact", max_removed=None),
}
SEEDS = range(10)
STEPS = range(1, 62, 10)
LOOKED_AT = (8, 16, 24)
LENGTH = 1e-4
"""The learning rate of the step that is tried, small enough that the divergence is quadratic in it."""

Gradient = dict[str, Tensor]


def sequence_gradients(policy: nn.Module, experience: Experience) -> Gradient:
    """Of each sequence's log-probability, written out [B, *W]."""
    weights = {name: parameter.detach() for name, parameter in policy.named_parameters()}

    def log_prob(weights: Gradient, image: Tensor, action: Tensor) -> Tensor:
        logits = torch.func.functional_call(policy, weights, (image.unsqueeze(0),)).squeeze(0)
        return logits.log_softmax(0).gather(0, action.unsqueeze(0)).squeeze(0)

    each = torch.func.vmap(torch.func.grad(log_prob), in_dims=(None, 0, 0))
    return dict(each(weights, experience.observations, experience.actions))


def shares(training: Training, config: ProjectionConfig) -> Iterator[tuple[float, float]]:
    """What is left in the microbatches that are looked at, in the order above."""
    part = next(training.sample().split(training.config.steps_per_batch))
    plain = copy.deepcopy(training.policy)
    running: Gradient = {}
    part = dataclasses.replace(part, advantages=part.advantages / len(part))  # as the training's mean weighs them
    for number, micro in enumerate(part.microbatches(8, torch.Generator().manual_seed(0))):
        gradients = sequence_gradients(plain, micro)
        if number in LOOKED_AT:
            left = {name: _removed(running[name], gradients[name], micro.advantages, config) for name in running}
            before, after = (_overlaps(one, gradients).square().sum() for one in (running, left))
            moved = [_kl_when_moved(training, one, micro) for one in (running, left)]
            if before > 0 and moved[0] > 0:
                yield float(after / before), moved[1] / moved[0]
        running = {
            name: accumulate(running.get(name), of_each, micro.advantages, config)
            for name, of_each in gradients.items()
        }


def _removed(running: Tensor, of_each: Tensor, advantages: Tensor, config: ProjectionConfig) -> Tensor:
    """A' alone: what a step gives, without the gradient that it adds."""
    return accumulate(running, of_each, advantages, config) - torch.tensordot(advantages, of_each, dims=1)


def _overlaps(running: Gradient, gradients: Gradient) -> Tensor:
    """<A, S_i> over all tensors [B]."""
    return sum(((of_each * running[name]).flatten(1).sum(1) for name, of_each in gradients.items()), torch.zeros(()))


def _kl_when_moved(training: Training, gradient: Gradient, micro: Experience) -> float:
    """The mean KL divergence, in nats, of the policy before and after a small step of Adam without momentum."""
    policy, images = copy.deepcopy(training.policy).double(), micro.observations.double()
    (group,) = training.optimizer.param_groups
    decay = group["betas"][1]
    with torch.no_grad():
        before = policy.distribution(images)
        for (name, moved), parameter in zip(policy.named_parameters(), training.policy.parameters(), strict=True):
            state = training.optimizer.state[parameter]
            square = decay * state["exp_avg_sq"] + (1 - decay) * gradient[name] ** 2
            scale = (square / (1 - decay ** (float(state["step"]) + 1))).sqrt() + group["eps"]
            moved += LENGTH * gradient[name] / scale
        return float(kl_divergence(before, policy.distribution(images)).mean())


def measure(projection: ProjectionConfig, seed: int) -> tuple[float, float]:
    """The two shares, averaged over the steps of a run that trains with this projection."""
    settings = {"projection": projection.method, "max_removed": projection.max_removed}
    config = BanditConfig(seed=seed, steps=max(STEPS) + 1, **settings)
    training = Training(config)
    found: list[tuple[float, float]] = []
    while training.step < max(STEPS):
        for _ in training.batch():
            pass
        if any(step in STEPS for step in (training.step, training.step - 1)):
            found += shares(training, projection)
    plain, adam = np.mean(found, axis=0)
    return float(plain), float(adam)


def table(stored: dict[str, list[list[float]]] | None = None) -> str:
    """The two shares for each clamp: mean over seeds [95 % t-interval]; without an argument, those that are stored."""
    stored = json.loads(STORED.read_text()) if stored is None else stored
    rows = [(clamp, *(_shown(np.array(column)) for column in zip(*of_seeds, strict=True)))
            for clamp, of_seeds in stored.items()]  # fmt: skip
    return markdown_table(("clamp", "left in the gradient's direction", "left after Adam's scaling"), rows)


def _shown(values: np.ndarray) -> str:
    mean, low, high = interval(values)
    return f"{mean:.0%} [{low:.0%}, {high:.0%}]"


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    found = {name: [list(measure(one, seed)) for seed in SEEDS] for name, one in PROJECTIONS.items()}
    print(table(found))
    if "--write" in arguments:
        STORED.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
