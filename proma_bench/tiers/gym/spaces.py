"""The conversion of spaces to inputs and outputs of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from jaxtyping import Float, Shaped
from torch import Tensor

from proma_bench.errors import UsageError
from proma_bench.foreign import shown

Array = np.ndarray


class Encoder:
    """Converts observations to inputs of a network.

    Box is flattened, and bounded entries are mapped to [-1, 1]. Discrete is encoded as one-hot vectors.
    """

    def __init__(self, environment: gymnasium.Env, name: str) -> None:
        space = getattr(environment, "observation_space", None)
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
        self.space = getattr(environment, "action_space", None)
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


def _require_supported(name: str, role: str, space: Space | None) -> None:
    whole_numbers = isinstance(space, Box) and role == "action" and not np.issubdtype(space.dtype, np.floating)
    empty = isinstance(space, Box) and 0 in space.shape
    if not isinstance(space, Box | Discrete) or whole_numbers or empty:
        kinds = "Discrete and Box (of floating-point numbers)" if role == "action" else "Discrete and Box"
        raise UsageError(
            f"{name}: its {role} space {shown(space)} is not supported; supported are {kinds} that are not empty"
        )
