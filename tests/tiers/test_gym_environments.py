"""Environments of all sorts: each gives either right training, or one line that says which call answered what."""

import sys
import warnings
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Sequence, Text, Tuple
from made_up_environments import Clock, Endless, Wrong, registered
from small_runs import tiny_gym

from proma_bench.cli import main
from proma_bench.errors import DivergenceError, RunError, UsageError
from proma_bench.experiments.run import run_in
from proma_bench.experiments.training import train
from proma_bench.runs.directory import read_run
from proma_bench.tiers.gym.environments import Environments
from proma_bench.tiers.gym.tier import Gym


def step(**changes):
    """An answer to a step in which something is another value."""
    names = ("observation", "reward", "terminated", "truncated", "info")
    return lambda answer: tuple({**dict(zip(names, answer, strict=True)), **changes}.values())


def config(**settings):
    return tiny_gym(env="Made-v0", max_episode_steps=5, steps=2, **settings)


class Unclear:
    def __array__(self, *arguments, **options):
        raise RuntimeError("no array")

    def __repr__(self):
        return "Unclear()"


NAN = np.array([1.0, np.nan], np.float32)
FIVE = "expected: (observation, reward, terminated, truncated, info)"

STEPS = {
    "observation NaN": (step(observation=NAN), "returned the observation array([ 1., nan], dtype=float32); expected:"),
    "observation inf": (step(observation=[1, np.inf]), "returned the observation [1, inf]; expected: finite numbers"),
    "observation huge": (step(observation=[1, 1e300]), "returned the observation [1, 1e+300]; expected: finite numbe"),
    "observation None": (step(observation=None), "returned the observation None; expected: numbers of shape (2,)"),
    "observation a text": (step(observation="ab"), "returned the observation 'ab'; expected: numbers of shape (2,)"),
    "observation complex": (step(observation=[1j, 0]), "returned the observation [1j, 0]; expected: numbers of shape"),
    "observation an object": (step(observation={"x": 1}), "returned the observation {'x': 1}; expected: numbers of s"),
    "observation unclear": (step(observation=Unclear()), "returned the observation Unclear(); expected: numbers of sh"),
    "observation short": (step(observation=[1.0]), "returned the observation [1.0]; expected: numbers of shape (2,)"),
    "observation long": (step(observation=[1, 2, 3]), "returned the observation [1, 2, 3]; expected: numbers of shape"),
    "observation deep": (step(observation=[[1, 2]]), "returned the observation [[1, 2]]; expected: numbers of shape"),
    "observation ragged": (step(observation=[[1], [1, 2]]), "returned the observation [[1], [1, 2]]; expected: numbe"),
    "reward NaN": (step(reward=float("nan")), "returned the reward nan; expected: a finite number"),
    "reward -inf": (step(reward=-np.inf), "returned the reward -inf; expected: a finite number"),
    "reward NaN in an array": (step(reward=np.array([np.nan])), "returned the reward array([nan]); expected: a finite"),
    "reward None": (step(reward=None), "returned the reward None; expected: one number"),
    "reward complex": (step(reward=1j), "returned the reward 1j; expected: one number"),
    "reward a text": (step(reward="1.0"), "returned the reward '1.0'; expected: one number"),
    "rewards of agents": (step(reward=np.ones(2)), "returned the reward array([1., 1.]); expected: one number"),
    "reward an object": (step(reward={"a": 1.0}), "returned the reward {'a': 1.0}; expected: one number"),
    "reward empty": (step(reward=[]), "returned the reward []; expected: one number"),
    "reward beyond floats": (step(reward=10**400), "returned the reward 1000"),
    "terminated None": (step(terminated=None), "returned terminated None; expected: True or False"),
    "terminated a text": (step(terminated="no"), "returned terminated 'no'; expected: True or False"),
    "terminated a number": (step(terminated=0.0), "returned terminated 0.0; expected: True or False"),
    "truncated an object": (step(truncated={}), "returned truncated {}; expected: True or False"),
    "truncated of agents": (step(truncated=np.zeros(2, bool)), "returned truncated array([False, False]); expected"),
    "the old interface": (lambda answer: (*answer[:3], {}), FIVE),
    "an observation only": (lambda answer: answer[0], FIVE),
    "nothing": (lambda answer: None, f"returned None; {FIVE}"),
    "a list": (lambda answer: list(answer), FIVE),
    "an error": (lambda answer: ValueError("the door\nis shut"), "raised ValueError: the door"),
    "an error without a text": (lambda answer: ZeroDivisionError(), "raised ZeroDivisionError"),
    "an assertion": (lambda answer: AssertionError("no such move"), "raised AssertionError: no such move"),
    "another call's error": (lambda answer: TypeError("takes 1"), "expected are reset(*, seed, options) and step(act"),
    "an error of this package": (lambda answer: UsageError("hm"), "raised UsageError: hm"),
    "an exit": (lambda answer: SystemExit(3), "raised SystemExit: 3"),
    "the end of an iterator": (lambda answer: StopIteration(), "raised StopIteration"),
}  # fmt: skip
"""An answer to a step, and the line that it gives."""

NOT_FINITE = {
    *("observation NaN", "observation inf", "observation huge"),
    *("reward NaN", "reward -inf", "reward NaN in an array"),
}

RESETS = {
    "an observation only": (lambda answer: answer[0], "expected: (observation, info)"),
    "nothing": (lambda answer: None, "returned None; expected: (observation, info)"),
    "three": (lambda answer: (*answer, {}), "expected: (observation, info)"),
    "observation NaN": (
        lambda answer: (NAN, {}),
        "returned the observation array([ 1., nan], dtype=float32); expected",
    ),
    "observation None": (lambda answer: (None, {}), "returned the observation None; expected: numbers of shape (2,)"),
    "an error": (lambda answer: OSError("no camera"), "raised OSError: no camera"),
}


def one_line(error, call, message):
    text = str(error)
    assert text.startswith(("Made-v0: ", "optimizer step 1: Made-v0: ", "diverged at step 1: Made-v0: "))
    assert call in text
    assert message in text
    assert "\n" not in text
    assert len(text) < 400


@pytest.mark.parametrize("name", STEPS)
def test_a_wrong_answer_to_the_first_step_is_found_before_a_run_begins(name, tmp_path):
    change, message = STEPS[name]
    with registered(Wrong, change=change, at=1), pytest.raises(UsageError) as caught:
        run_in(tmp_path / "run", config())
    one_line(caught.value, "step 1 after reset(seed=0) r", message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", RESETS)
def test_a_wrong_answer_to_a_reset_is_found_before_a_run_begins(name, tmp_path):
    change, message = RESETS[name]
    with registered(Wrong, change=change, at=0), pytest.raises(UsageError) as caught:
        run_in(tmp_path / "run", config())
    one_line(caught.value, "Made-v0: reset(seed=0) r", message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", STEPS)
def test_a_wrong_answer_to_a_later_step_ends_the_run(name, tmp_path):
    change, message = STEPS[name]
    with registered(Wrong, change=change, at=3), pytest.raises(RunError) as caught:
        run_in(tmp_path, config())
    one_line(caught.value, "step 3 after reset(seed=", message)
    assert isinstance(caught.value, DivergenceError) == (name in NOT_FINITE)
    assert (read_run(tmp_path).diverged is not None) == isinstance(caught.value, DivergenceError)


FINE = {
    "reward of shape (1,)": step(reward=np.array([1.0])),
    "reward a scalar of numpy": step(reward=np.float32(1.0)),
    "reward a whole number": step(reward=1),
    "reward a whole number of numpy": step(reward=np.int64(1)),
    "reward a truth value": step(reward=True),
    "reward a tensor": step(reward=torch.tensor(1.0)),
    "terminated of numpy": step(terminated=np.bool_(False)),
    "truncated an array": step(truncated=np.array([False])),
    "observation a list": lambda answer: ([0, 1], *answer[1:]),
    "observation of float64": lambda answer: (answer[0].astype(np.float64), *answer[1:]),
    "observation of whole numbers": lambda answer: (answer[0].astype(np.int64), *answer[1:]),
    "observation a tensor": lambda answer: (torch.from_numpy(answer[0]), *answer[1:]),
    "info nothing": step(info=None),
}


@pytest.mark.parametrize("name", FINE)
def test_answers_in_another_form_train_as_the_usual_one(name):
    with registered(Wrong, change=FINE[name], at=1):
        environments = Environments(config(), 2)
        episodes = environments.play([0, 1], lambda rows: torch.zeros(len(rows), dtype=torch.long))
    assert episodes.returns.tolist() == [5, 5]
    assert episodes.observations[:, 1].tolist() == 2 * [0, 1, 2, 3, 4]
    assert episodes.observations.dtype == torch.float32


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (Discrete(3), 3, "returned the observation 3; expected: a whole number in Discrete(3)"),
        (Discrete(3, start=2), 1, "returned the observation 1; expected: a whole number in Discrete(3, start=2)"),
        (Discrete(3), 1.0, "returned the observation 1.0; expected: a whole number in Discrete(3)"),
        (Discrete(3), [1], "returned the observation [1]; expected: a whole number"),
        (Discrete(3), None, "returned the observation None; expected: a whole number"),
        (Box(-1, 1, ()), [0.5], "returned the observation [0.5]; expected: numbers of shape ()"),
        (Box(-1, 1, (2, 2)), np.zeros(4), "expected: numbers of shape (2, 2)"),
    ],
)
def test_an_observation_that_is_not_of_its_space_is_one_line(space, value, message):
    change = step(observation=value)
    with registered(Wrong, change=change, at=1, observations=space), pytest.raises(UsageError) as caught:
        Gym(config())
    one_line(caught.value, "step 1 after reset(seed=0) ", message)


def test_observations_may_lie_outside_their_bounds():
    with registered(Wrong, change=step(observation=[9, 0]), at=1, observations=Box(-2, 2, (2,))):
        episodes = Environments(config(), 1).play([0], lambda rows: torch.zeros(len(rows), dtype=torch.long))
    assert episodes.observations[1].tolist() == [4.5, 0]


# ------------------------------------------------------------------------------------------------- signatures


class NoSeed(Clock):
    def reset(self):
        return super().reset(seed=0)


class NoAction(Clock):
    def step(self):
        return super().step(0)


class Size(Clock):
    def __init__(self, size):
        super().__init__()


class Broken(Clock):
    def __init__(self):
        raise ValueError("no maze of size 0\nhas a way out")


class Leaves(Clock):
    def __init__(self):
        sys.exit(3)


class NoSpaces(Clock):
    def __init__(self):
        pass


class Old:
    """Not derived from Gymnasium's class."""

    observation_space, action_space = Box(-1, 1), Discrete(2)


class Many(gymnasium.vector.VectorEnv):
    metadata: ClassVar = {"render_modes": []}
    num_envs = 2


NOT_MADE = {
    "reset without seed": (NoSeed, "reset(seed=0) raised TypeError: NoSeed.reset() got an unexpected keyword argument"),
    "step without action": (
        NoAction,
        "step 1 after reset(seed=0) raised TypeError: NoAction.step() takes 1 positional",
    ),
    "an argument": (Size, "cannot be made: TypeError: Size.__init__() missing 1 required positional argument: 'size'"),
    "an error": (Broken, "Made-v0 cannot be made: ValueError: no maze of size 0"),
    "the end of the process": (Leaves, "Made-v0 cannot be made: SystemExit: 3"),
    "no spaces": (NoSpaces, "its observation space None is not supported"),
    "another class": (Old, "must inherit from the gymnasium.Env class"),
    "a vector environment": (Many, "must inherit from the gymnasium.Env class"),
    "a missing module": ("nowhere.rooms:Room", "Made-v0: No module named 'nowhere'"),
    "a missing class": ("math:Room", "Made-v0 cannot be made: AttributeError: module 'math' has no attribute 'Room'"),
    "no entry point": (None, "Made-v0"),
}


@pytest.mark.parametrize("name", NOT_MADE)
def test_what_is_no_environment_is_one_line_and_leaves_nothing_behind(name, tmp_path, capsys):
    entry_point, message = NOT_MADE[name]
    vector = {"vector_entry_point": Many} if entry_point is None else {}
    gymnasium.register("Made-v0", entry_point=entry_point, **vector)
    try:
        assert main(["run", "gym", "--env", "Made-v0", "--out", str(tmp_path / "run")]) == 2
    finally:
        del gymnasium.registry["Made-v0"]
    line = capsys.readouterr().err
    assert line.startswith("proma-bench: Made-v0")
    assert message in line
    assert line.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "space",
    [
        Dict(a=Box(-1, 1, (20, 20)), b=Discrete(2)),
        Tuple([Discrete(2)]),
        Text(3),
        Graph(Discrete(2), None),
        MultiBinary(3),
        MultiDiscrete([2, 3]),
        Sequence(Discrete(2)),
        Box(-1, 1, (0,)),
    ],
    ids=lambda space: type(space).__name__,
)
@pytest.mark.parametrize("role", ["observation", "action"])
def test_a_space_that_is_not_supported_is_one_line(space, role):
    with registered(**{f"{role}s": space}), pytest.raises(UsageError) as caught:
        Gym(config())
    text = str(caught.value)
    assert text.startswith(f"Made-v0: its {role} space {type(space).__name__}(")
    assert "is not supported; supported are Discrete and Box" in text
    assert "\n" not in text
    assert len(text) < 400


MODULES = {
    "a syntax error": ("def f(:\n", "cannot be made: SyntaxError"),
    "an error": ("1 / 0\n", "cannot be made: ZeroDivisionError"),
    "a script": ("import sys\nsys.exit(2)\n", "cannot be made: SystemExit: 2"),
    "a missing package": ("import nowhere_else\n", "No module named 'nowhere_else'"),
    "no such environment": ("", "unknown environment 'rooms:Room-v0'"),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_cannot_be_imported_is_one_line(name, tmp_path, monkeypatch):
    text, message = MODULES[name]
    (tmp_path / "rooms.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError) as caught:
        Gym(tiny_gym(env="rooms:Room-v0"))
    sys.modules.pop("rooms", None)
    assert "rooms:Room-v0" in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", ":", ":CartPole-v1", "CartPole-v1:", "a b:c", "CartPole-v", "ns/CartPole-v1", "a/b/c"]
)
def test_any_name_is_one_line(name):
    with pytest.raises(UsageError) as caught:
        Gym(tiny_gym(env=name))
    assert repr(name)[1:-1] in str(caught.value)
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------- whole runs


class AtOnce(Clock):
    """Its episodes have one step."""

    def reset(self, *, seed=None, options=None):
        answer = super().reset(seed=seed)
        self.end = 1
        return answer


class Sticky(Clock):
    closed = 0

    def close(self):
        type(self).closed += 1
        raise RuntimeError("cannot be closed")


@pytest.mark.parametrize("entry_point", [AtOnce, Endless, Sticky])
@pytest.mark.parametrize("method", ["grpo", "proma"])
def test_episodes_of_any_length_train(entry_point, method, capsys):
    with registered(entry_point):
        history = train(config(method=method))
    rewards = {AtOnce: 1, Endless: 5}
    assert entry_point is Sticky or [row["reward"] for row in history] == 2 * [rewards[entry_point]]
    assert capsys.readouterr().err == ""


def test_environments_are_closed_with_their_tier():
    Sticky.closed = 0
    with registered(Sticky):
        tier = Gym(config())
    probes = Sticky.closed
    del tier
    assert Sticky.closed - probes == 4 * 3 + 2


def test_a_version_that_is_out_of_date_trains_after_a_warning():
    gymnasium.register("Made-v1", entry_point=Clock)
    try:
        with registered(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(config())
    finally:
        del gymnasium.registry["Made-v1"]
    assert any("Made-v0 is out of date" in str(warning.message) for warning in caught)


@pytest.mark.parametrize(
    ("package", "env", "command"),
    [
        ("mujoco", "Ant-v5", 'pip install "gymnasium[mujoco]"'),
        ("Box2D", "LunarLander-v3", 'pip install "gymnasium[box2d]"'),
    ],
)
def test_a_missing_extra_has_its_command(package, env, command, monkeypatch):
    """Whether it is installed or not."""
    for module in [name for name in sys.modules if name.startswith(f"gymnasium.envs.{package.lower()}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError) as caught:
        Gym(tiny_gym(env=env))
    assert str(caught.value).startswith(f"{env}: ")
    assert command in str(caught.value)
    assert "\n" not in str(caught.value)
