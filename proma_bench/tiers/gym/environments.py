"""Batches of whole episodes in Gymnasium environments.

An episode ends in one of two ways, which are recorded separately:

    terminated   the task is over: the return is complete
    truncated    the time limit is reached: the return contains the rewards until then

There is no critic that could estimate the rewards after the time limit. Therefore the limit is part of the task, as in
the published scores of these environments.

A reset seed determines the initial state and all random numbers of the environment during the episode. Episodes with
the same seed and the same actions are therefore identical: differences between episodes are caused only by the actions
("common random numbers"). The policy gradient remains unbiased, because the policy does not see the seed, and the noise
of the environment does not affect comparisons within a group.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from proma_bench.errors import RunError, UsageError
from proma_bench.foreign import FAILURES
from proma_bench.tiers.gym.config import GymConfig
from proma_bench.tiers.gym.creation import LONGEST, make
from proma_bench.tiers.gym.spaces import Array, Decoder, Encoder

__all__ = ["LONGEST", "Environments", "Episodes", "make"]

Act = Callable[[Tensor], Tensor]
"""From encoded observations [rows, features] to actions [rows, ...]."""


@dataclass(frozen=True)
class Episodes:
    """B whole episodes with N steps in total. Steps are sorted by episode and by time.

    Attributes:
        observations: encoded observations.
        actions: the actions of the policy, not decoded.
        sequence_ids: the episode of each step.
        returns: the undiscounted sum of rewards per episode.
        terminated: whether the task was over.
        truncated: whether the time limit was reached (an environment may report both at once).
    """

    observations: Float[Tensor, "N features"]
    actions: Shaped[Tensor, "N ..."]
    sequence_ids: Int[Tensor, " N"]
    returns: Float[Tensor, " B"]
    terminated: Bool[Tensor, " B"]
    truncated: Bool[Tensor, " B"]


class Environments:
    """Copies of one environment, each of which plays one episode to its end. Finished copies are not stepped.

    Attributes:
        envs: the copies.
        encoder: converts their observations.
        decoder: converts actions to theirs.
    """

    def __init__(self, config: GymConfig, count: int) -> None:
        """Make the copies, after a trial of the first step.

        Args:
            config: the settings of the run.
            count: number of copies.

        Raises:
            UsageError: the environment cannot be made (see `make`), a space is neither Box nor Discrete, or the trial
                failed.
        """
        probe = make(config)
        self.encoder, self.decoder = Encoder(probe, config.env), Decoder(probe, config.env)
        _try(probe, self.decoder)
        self.envs = [make(config) for _ in range(count)]
        weakref.finalize(self, _close, self.envs)

    def play(self, seeds: Sequence[int], act: Act) -> Episodes:
        """Play one episode in each copy.

        Args:
            seeds: one reset seed per copy.
            act: chooses actions for encoded observations.

        Returns:
            The episodes.

        Raises:
            RunError: an environment failed, or returned what cannot be used.
        """
        observations = np.stack([env.reset(seed=seed)[0] for env, seed in zip(self.envs, seeds, strict=True)])
        returns = np.zeros(len(self.envs))
        terminated, truncated = np.zeros((2, len(self.envs)), dtype=bool)
        live = np.arange(len(self.envs))
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        while len(live):
            encoded = self.encoder(observations)
            actions = act(encoded)
            steps.append((encoded, actions, torch.from_numpy(live)))
            observations, rewards, terminated[live], truncated[live] = self._step(live, self.decoder(actions))
            returns[live] += rewards
            going_on = ~(terminated | truncated)[live]
            live, observations = live[going_on], observations[going_on]
        rows, chosen, ids = map(torch.cat, zip(*steps, strict=True))
        order = ids.argsort(stable=True)
        return Episodes(
            observations=rows[order],
            actions=chosen[order],
            sequence_ids=ids[order],
            returns=torch.from_numpy(returns),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
        )

    def _step(self, live: Array, actions: Sequence[Any]) -> tuple[Array, Array, Array, Array]:
        """Step the environments that are not finished."""
        results = [self.envs[index].step(action) for index, action in zip(live, actions, strict=True)]
        observations, rewards, terminated, truncated, _ = zip(*results, strict=True)
        return np.stack(observations), np.array(rewards, dtype=float), np.array(terminated), np.array(truncated)


def _try(environment: gymnasium.Env, decoder: Decoder) -> None:
    """Reset and step an environment once, so that one without Gymnasium's interface is found before a run begins."""
    dtype = torch.float32 if decoder.continuous else torch.long
    try:
        environment.reset(seed=0)
        environment.step(decoder(torch.zeros((1, decoder.outputs)[: 1 + decoder.continuous], dtype=dtype))[0])
    except RunError as error:
        raise UsageError(str(error)) from error
    finally:
        _close([environment])


def _close(environments: Sequence[gymnasium.Env]) -> None:
    for environment in environments:
        with contextlib.suppress(*FAILURES):  # nothing depends on it
            environment.close()
