"""Environments whose every step is known beforehand, and such that answer wrongly."""

import contextlib
import math

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Clock(gymnasium.Env):
    """Strikes after 1 to 6 steps, as the reset seed has it. Observes that hour and the time; pays 1 a step."""

    def __init__(self, observations=None, actions=None):
        self.observation_space = observations or Box(-np.inf, np.inf, (2,))
        self.action_space = actions or Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.end, self.time, self.actions = int(self.np_random.integers(1, 7)), 0, []
        return self._observation(), {}

    def step(self, action):
        assert self.time < self.end, "stepped after its end"
        self.time += 1
        self.actions.append(action)
        return self._observation(), 1.0, self.time == self.end, False, {}

    def _observation(self):
        if self.observation_space.shape != (2,):
            self.observation_space.seed(self.time)
            return self.observation_space.sample()
        return np.array([min(self.end, 1000), self.time], dtype=np.float32)


class Endless(Clock):
    """Never strikes."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.end = math.inf
        return observation, info


class Wrong(Endless):
    """Answers ``change(answer)`` to a reset (step 0) or to one step of each episode; an exception is raised instead."""

    def __init__(self, change, at, observations=None, actions=None):
        super().__init__(observations, actions)
        self.change, self.at = change, at

    def reset(self, *, seed=None, options=None):
        return self._changed(super().reset(seed=seed), 0)

    def step(self, action):
        return self._changed(super().step(action), self.time)

    def _changed(self, answer, time):
        if time != self.at:
            return answer
        changed = self.change(answer)
        if isinstance(changed, BaseException):
            raise changed
        return changed


@contextlib.contextmanager
def registered(entry_point=Clock, **spaces):
    """An environment under the name Made-v0."""
    gymnasium.register("Made-v0", entry_point=entry_point, kwargs=spaces)
    try:
        yield
    finally:
        del gymnasium.registry["Made-v0"]
