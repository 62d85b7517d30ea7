"""Batches of whole episodes in Gymnasium environments, and the conversion of spaces to inputs and outputs of a network.

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
"""Time limit in steps if neither the environment nor the config has one."""

Array = np.ndarray
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


class Environments(gymnasium.vector.SyncVectorEnv):
    """Copies of one environment, each of which plays one episode to its end. Finished copies are not stepped."""

    def __init__(self, config: GymConfig, count: int) -> None:
        """Make the copies.

        Args:
            config: the settings of the run.
            count: number of copies.

        Raises:
            UsageError: the environment cannot be made (see `make`), or a space is neither Box nor Discrete.
        """
        probe = make(config)
        self.encoder, self.decoder = Encoder(probe, config.env), Decoder(probe, config.env)
        probe.close()
        super().__init__([lambda: make(config)] * count)

    def play(self, seeds: Sequence[int], act: Act) -> Episodes:
        """Play one episode in each copy.

        Args:
            seeds: one reset seed per copy.
            act: chooses actions for encoded observations.

        Returns:
            The episodes.
        """
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
        """Step the environments that are not finished; Gymnasium's own ``step`` steps all of them."""
        results = [self.envs[index].step(action) for index, action in zip(live, actions, strict=True)]
        observations, rewards, terminated, truncated, _ = zip(*results, strict=True)
        return np.stack(observations), np.array(rewards, dtype=float), np.array(terminated), np.array(truncated)


# ------------------------------------------------------------------------------------------------ spaces


class Encoder:
    """Converts observations to inputs of a network.

    Box is flattened, and bounded entries are mapped to [-1, 1]. Discrete is encoded as one-hot vectors.
    """

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
    """Converts outputs of a policy to actions of an environment.

    In a Discrete space, an output is the index of the action. In a bounded Box, 0 is the middle, and -1 and 1 are the
    bounds; actions are clipped to the bounds, which the policy's distribution does not take into account.
    """

    def __init__(self, environment: gymnasium.Env, name: str) -> None:
        self.space = environment.action_space
        _require_supported(name, "action", self.space)
        self.continuous = isinstance(self.space, Box)
        if isinstance(self.space, Box):
            self.centre, self.half = _bounds(self.space)
        self.outputs = int(self.space.n) if isinstance(self.space, Discrete) else len(self.centre)

    def __call__(self, actions: Shaped[Tensor, "rows ..."]) -> Sequence[Any]:
        if isinstance(self.space, Discrete):  # Python integers: environments check them fastest
            return (actions + int(self.space.start)).tolist()
        assert isinstance(self.space, Box)
        unscaled = (self.centre + self.half * actions.numpy()).reshape(-1, *self.space.shape)
        return list(unscaled.clip(self.space.low, self.space.high).astype(self.space.dtype))


def _bounds(space: Box) -> tuple[Array, Array]:
    """The centre and half the width of each entry, flattened; 0 and 1 if it is unbounded or has very large bounds."""
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
    """Make the environment of a config.

    Args:
        config: the settings of the run.

    Returns:
        The environment, with a time limit.

    Raises:
        UsageError: the name is not registered, a package is not installed, or the environment lacks an option.
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
        if config.env in gymnasium.registry:  # the name is known, but the environment cannot be made
            raise UsageError(f"{config.env}: {_reason(error)}") from None
        near = difflib.get_close_matches(config.env, gymnasium.registry, n=1, cutoff=0.0)[0]
        hint = _registration_hint(config.env)
        raise UsageError(f"unknown environment {config.env!r}; did you mean {near!r}?{hint}") from None
    except TypeError as error:
        if "is_slippery" not in str(error):
            raise
        raise UsageError(f"{config.env} has no ice: slippery is for FrozenLake only") from None
    return environment


def _reason(error: Exception) -> str:
    """The first line of an error. If an extra of Gymnasium is missing, the command that installs it is added."""
    line = str(error).strip().partition("\n")[0].rstrip(".")
    module = (getattr(error, "name", None) or "").partition(".")[0]
    return f'{line}, run `pip install "gymnasium[{module}]"`' if module in ("jax", "mujoco") else line


def _registration_hint(name: str) -> str:
    if name.startswith("ALE/"):
        return f' Atari games need `pip install "gymnasium[atari]"` and have the name `ale_py:{name}`.'
    return "" if ":" in name else " If your own package registers it, use the name `PACKAGE:NAME`."
