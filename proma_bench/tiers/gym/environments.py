"""Gymnasium environments as batches of whole episodes, and their spaces as inputs and outputs of a network.

An episode ends in one of two ways, and both are kept apart from each other:

    terminated   the task is over: the return is complete
    truncated    the time limit was reached: the return is what was collected until then

There is no critic that could estimate what would have come after a time limit. So the limit is part of the task, as it
is in the scores that are published for these environments.

A reset seed fixes the start and, where an environment draws random numbers on its way, those as well. Episodes from
one seed that act alike therefore go alike: they differ by what the policy did and by nothing else ("common random
numbers"). This leaves the policy gradient unbiased, as the policy does not see the seed, and takes the noise of the
environment out of comparisons within a group.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from proma_bench.errors import UsageError
from proma_bench.tiers.gym.config import GymConfig

LONGEST = 1000
"""Steps after which an episode is cut where neither the environment nor the config has a limit."""

Array = np.ndarray
Act = Callable[[Tensor], Tensor]
"""From encoded observations [rows, features] to actions [rows, ...]."""


@dataclass(frozen=True)
class Episodes:
    """B whole episodes of N steps in all, one after another, each in order of time.

    Attributes:
        observations: encoded.
        actions: as the policy chose them.
        sequence_ids: the episode of every step.
        returns: the sum of an episode's rewards, undiscounted.
        terminated: whether the task was over.
        truncated: whether the time limit was reached (an environment may report both at once).
    """

    observations: Float[Tensor, "N features"]
    actions: Shaped[Tensor, "N ..."]
    sequence_ids: Int[Tensor, " N"]
    returns: Float[Tensor, " B"]
    terminated: Bool[Tensor, " B"]
    truncated: Bool[Tensor, " B"]


class Environments(gymnasium.vector.SyncVectorEnv):
    """Copies of one environment that are played to the end of their episodes; the finished ones drop out."""

    def __init__(self, config: GymConfig, count: int) -> None:
        """Make the copies.

        Raises:
            UsageError: the environment cannot be made (see `make`), or has spaces other than Box and Discrete.
        """
        probe = make(config)
        self.encoder, self.decoder = Encoder(probe, config.env), Decoder(probe, config.env)
        probe.close()
        super().__init__([lambda: make(config)] * count)

    def play(self, seeds: Sequence[int], act: Act) -> Episodes:
        """One episode in each copy, from its reset seed."""
        observations, _ = self.reset(seed=list(seeds))
        returns = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), dtype=bool)
        live = np.arange(self.num_envs)
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
            returns=torch.from_numpy(returns).float(),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
        )

    def _step(self, live: Array, actions: Sequence[Any]) -> tuple[Array, Array, Array, Array]:
        """Step the live environments only: Gymnasium's own ``step`` would step the finished ones as well."""
        results = [self.envs[index].step(action) for index, action in zip(live, actions, strict=True)]
        observations, rewards, terminated, truncated, _ = zip(*results, strict=True)
        return np.stack(observations), np.array(rewards, dtype=float), np.array(terminated), np.array(truncated)


# ------------------------------------------------------------------------------------------------ spaces


class Encoder:
    """Observations as a network's input: Box flattened, with bounded entries mapped to [-1, 1]; Discrete one-hot."""

    def __init__(self, environment: gymnasium.Env, name: str) -> None:
        space = environment.observation_space
        _require_supported(name, "observation", space)
        self.start = int(space.start) if isinstance(space, Discrete) else None
        if isinstance(space, Box):
            centre, half = _bounds(space)
            self.centre, self.half = centre, half
        self.features = int(space.n) if isinstance(space, Discrete) else len(self.centre)

    def __call__(self, observations: Array) -> Float[Tensor, "rows {self.features}"]:
        if self.start is not None:
            return torch.nn.functional.one_hot(torch.from_numpy(observations - self.start), self.features).float()
        rows = observations.reshape(len(observations), -1)
        return torch.from_numpy(((rows - self.centre) / self.half).astype(np.float32))


class Decoder:
    """A policy's choices as an environment's actions.

    Of a Discrete space it is the number of the choice. Of a Box, 0 is the middle and -1 and 1 are the bounds, where
    there are bounds; the environment gets what lies beyond them clipped, the policy's distribution does not know.
    """

    def __init__(self, environment: gymnasium.Env, name: str) -> None:
        self.space = environment.action_space
        _require_supported(name, "action", self.space)
        self.continuous = isinstance(self.space, Box)
        if isinstance(self.space, Box):
            self.centre, self.half = _bounds(self.space)
        self.outputs = int(self.space.n) if isinstance(self.space, Discrete) else len(self.centre)

    def __call__(self, actions: Shaped[Tensor, "rows ..."]) -> Sequence[Any]:
        if isinstance(self.space, Discrete):  # Python's own integers: environments check those fastest
            return (actions + int(self.space.start)).tolist()
        assert isinstance(self.space, Box)
        unscaled = (self.centre + self.half * actions.numpy()).reshape(-1, *self.space.shape)
        return list(unscaled.clip(self.space.low, self.space.high).astype(self.space.dtype))


def _bounds(space: Box) -> tuple[Array, Array]:
    """The centre and half the width of each entry, flattened; 0 and 1 where it is unbounded, or as good as that."""
    low, high = (bound.flatten().astype(float) for bound in (space.low, space.high))
    bounded = (np.maximum(np.abs(low), np.abs(high)) < 1e6) & (low < high)
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    return (low + high) / 2, (high - low) / 2


def _require_supported(name: str, role: str, space: Space) -> None:
    whole_numbers = isinstance(space, Box) and role == "action" and not np.issubdtype(space.dtype, np.floating)
    if not isinstance(space, Box | Discrete) or whole_numbers:
        kinds = "Discrete and Box (of floating-point numbers)" if role == "action" else "Discrete and Box"
        raise UsageError(f"{name}: its {role} space {space} is not supported; supported are {kinds}")


# ------------------------------------------------------------------------------------------------ creation


def make(config: GymConfig) -> gymnasium.Env:
    """The environment that the config names.

    Raises:
        UsageError: the name is not registered, a package is not installed, or the environment does not have an option.
    """
    options = {} if config.slippery else {"is_slippery": False}
    limit = config.max_episode_steps
    try:
        environment = gymnasium.make(config.env, max_episode_steps=limit, disable_env_checker=True, **options)
        if limit is None and environment.spec is not None and environment.spec.max_episode_steps is None:
            environment = gymnasium.wrappers.TimeLimit(environment, LONGEST)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise UsageError(f"{config.env}: {_reason(error)}") from None
    except gymnasium.error.Error as error:
        if config.env in gymnasium.registry:  # known, and broken
            raise UsageError(f"{config.env}: {_reason(error)}") from None
        near = difflib.get_close_matches(config.env, gymnasium.registry, n=1, cutoff=0.0)[0]
        raise UsageError(f"unknown environment {config.env!r}; did you mean {near!r}?{_home(config.env)}") from None
    except TypeError as error:
        if "is_slippery" not in str(error):
            raise
        raise UsageError(f"{config.env} has no ice: slippery is for FrozenLake only") from None
    return environment


def _reason(error: Exception) -> str:
    """Gymnasium's own line, which names the package; Python's with the package added where that is known."""
    line = str(error).strip().partition("\n")[0].rstrip(".")
    module = (getattr(error, "name", None) or "").partition(".")[0]
    return f'{line}, run `pip install "gymnasium[{module}]"`' if module in ("jax", "mujoco") else line


def _home(name: str) -> str:
    if name.startswith("ALE/"):
        return f' Atari games need `pip install "gymnasium[atari]"` and go by `ale_py:{name}`.'
    return "" if ":" in name else " One that a package of yours registers goes by `PACKAGE:NAME`."
