"""How environments are made."""

from __future__ import annotations

import difflib

import gymnasium
from gymnasium.wrappers import TimeLimit

from proma_bench.errors import UsageError
from proma_bench.foreign import FAILURES, described
from proma_bench.tiers.gym.checked import Checked
from proma_bench.tiers.gym.config import GymConfig

LONGEST = 1000
"""Time limit in steps if neither the environment nor the config has one."""


def make(config: GymConfig) -> gymnasium.Env:
    """Make the environment of a config.

    Args:
        config: the settings of the run.

    Returns:
        The environment with a time limit. Its answers are checked, see `Checked`.

    Raises:
        UsageError: the name is not registered, a package is not installed, the environment lacks an option, or it
            cannot be made.
    """
    options = {} if config.slippery else {"is_slippery": False}
    name = config.env
    try:
        environment = gymnasium.make(
            name, max_episode_steps=config.max_episode_steps, disable_env_checker=True, **options
        )
        limit = LONGEST if environment.spec is None else environment.spec.max_episode_steps or LONGEST
        if isinstance(environment, TimeLimit):
            environment = environment.env  # it takes answers apart, which must be checked before
        return TimeLimit(Checked(environment, name), limit)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise UsageError(f"{name}: {_reason(error)}") from None
    except gymnasium.error.Error as error:
        if name.rpartition(":")[2] in gymnasium.registry:  # the name is known, but the environment cannot be made
            raise UsageError(f"{name}: {_reason(error)}") from None
        near = difflib.get_close_matches(name, gymnasium.registry, n=1, cutoff=0.0)[0]
        raise UsageError(f"unknown environment {name!r}; did you mean {near!r}?{_registration_hint(name)}") from None
    except FAILURES as error:  # of the environment's own code
        if type(error) is TypeError and "is_slippery" in str(error):
            raise UsageError(f"{name} has no ice: slippery is for FrozenLake only") from None
        raise UsageError(f"{name} cannot be made: {described(error)}") from error


def _reason(error: Exception) -> str:
    """The first line of an error. If an extra of Gymnasium is missing, the command that installs it is added."""
    line = str(error).strip().partition("\n")[0].rstrip(".")
    module = (getattr(error, "name", None) or "").partition(".")[0]
    return f'{line}, run `pip install "gymnasium[{module}]"`' if module in ("jax", "mujoco") else line


def _registration_hint(name: str) -> str:
    if name.startswith("ALE/"):
        return f' Atari games need `pip install "gymnasium[atari]"` and have the name `ale_py:{name}`.'
    return "" if ":" in name else " If your own package registers it, use the name `PACKAGE:NAME`."
