"""Environments whose answers are checked as they come.

Gymnasium's checker (``PassiveEnvChecker``) warns about style as well, and looks at the first reset and step only. A
reward that is not a number may come in any step, and would be found in the weights, without a trace of where it came
from. Checked is what training needs: observations may lie outside the bounds of their space, and may have another
numeric type, as those of many environments do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from proma_bench.errors import DivergenceError, RunError
from proma_bench.foreign import FAILURES, described, shown

LARGEST = float(np.finfo(np.float32).max)

Array = np.ndarray


class Checked(gymnasium.Wrapper):
    """An environment whose answers are checked, with messages that say which call went wrong.

    ``reset`` and ``step`` raise RunError for an answer that cannot be used, and for any exception of the environment;
    and DivergenceError for numbers that are not finite, which may be the effect of extreme actions.
    """

    def __init__(self, environment: gymnasium.Env, name: str) -> None:
        """Check an environment.

        Args:
            environment: the environment. Its spaces are Box or Discrete.
            name: its name for messages.
        """
        super().__init__(environment)
        self._name, self._space = name, getattr(environment, "observation_space", None)
        self._seed: int | None = None
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, Any]:
        self._seed, self._steps = seed, 0
        answer = self._ask(lambda: self.env.reset(seed=seed))
        if not isinstance(answer, tuple) or len(answer) != 2:
            self._refuse(shown(answer), "(observation, info)")
        return self._observation(answer[0]), answer[1]

    def step(self, action: Any) -> tuple[Array, float, bool, bool, Any]:
        self._steps += 1
        answer = self._ask(lambda: self.env.step(action))
        if not isinstance(answer, tuple) or len(answer) != 5:
            self._refuse(shown(answer), "(observation, reward, terminated, truncated, info)")
        observation, reward, terminated, truncated, info = answer
        return (
            self._observation(observation),
            self._number(reward),
            self._flag("terminated", terminated),
            self._flag("truncated", truncated),
            info,
        )

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except FAILURES as error:  # of the environment's own code
            expected = "; expected are reset(*, seed, options) and step(action)" if type(error) is TypeError else ""
            raise RunError(f"{self._name}: {self._call()} raised {described(error)}{expected}") from error

    def _observation(self, value: Any) -> Array:
        space, array = self._space, _array(value)
        if isinstance(space, Discrete):
            whole = array.dtype.kind in "iu" and array.shape == ()
            if not whole or not space.start <= array < space.start + space.n:
                self._refuse(f"the observation {shown(value)}", f"a whole number in {space}")
            return array
        assert isinstance(space, Box)
        if array.dtype.kind not in "biuf" or array.shape != space.shape:
            self._refuse(f"the observation {shown(value)}", f"numbers of shape {space.shape}")
        if array.dtype.kind == "f" and not np.abs(array).max() <= LARGEST:  # which is not true of NaN either
            self._refuse(f"the observation {shown(value)}", "finite numbers", DivergenceError)
        return array

    def _number(self, value: Any) -> float:
        if type(value) is float and math.isfinite(value):  # as nearly always
            return value
        array = _array(value)
        if array.dtype.kind not in "biuf" or array.size != 1:
            self._refuse(f"the reward {shown(value)}", "one number")
        number = float(array.item())
        if not math.isfinite(number):
            self._refuse(f"the reward {shown(value)}", "a finite number", DivergenceError)
        return number

    def _flag(self, name: str, value: Any) -> bool:
        if type(value) is bool:
            return value
        array = _array(value)
        if array.dtype.kind != "b" or array.size != 1:
            self._refuse(f"{name} {shown(value)}", "True or False")
        return bool(array.item())

    def _refuse(self, answer: str, expected: str, error: type[RunError] = RunError) -> NoReturn:
        raise error(f"{self._name}: {self._call()} returned {answer}; expected: {expected}")

    def _call(self) -> str:
        """The last call, in such a way that it can be repeated."""
        reset = f"reset(seed={self._seed})"
        return f"step {self._steps} after {reset}" if self._steps else reset


def _array(value: Any) -> Array:
    """The value as an array; of objects, if there is no such array."""
    try:
        return np.asarray(value)
    except FAILURES:  # of the value's own code
        return np.array(None)
