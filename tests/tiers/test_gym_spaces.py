"""The Gymnasium tier: which environments it takes, and what it says of those that it does not."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from made_up_environments import registered
from small_runs import tiny_gym

from proma_bench.cli import main
from proma_bench.errors import UsageError
from proma_bench.experiments.training import Training
from proma_bench.tiers.gym.config import GymConfig
from proma_bench.tiers.gym.environments import Environments, make
from proma_bench.tiers.gym.tier import Gym


def test_bounded_observations_lie_between_minus_one_and_one():
    config = tiny_gym(env="MountainCarContinuous-v0")
    encoder = Environments(config, 1).encoder
    corners = make(config).observation_space
    assert encoder(np.stack([corners.low, corners.high])).tolist() == [[-1, -1], [1, 1]]
    unbounded = Environments(tiny_gym(), 1).encoder(np.array([[0, 7.0, 0, -9.0]], dtype=np.float32))
    assert unbounded.tolist() == [[0, 7, 0, -9]]


@pytest.mark.parametrize("space", [Box(0, 255, (3, 2), np.uint8), Box(-1, 1, ()), Box(2, 2), Discrete(5, start=3)])
def test_observation_spaces(space):
    with registered(observations=space):
        encoder = Environments(tiny_gym(env="Made-v0"), 1).encoder
    space.seed(0)
    rows = encoder(np.stack([space.sample() for _ in range(4)]))
    assert rows.shape == (4, encoder.features)
    assert rows.dtype == torch.float32
    if isinstance(space, Discrete):
        assert encoder(np.array([3, 7])).argmax(dim=1).tolist() == [0, 4]


def test_actions_are_scaled_to_the_bounds_and_clipped_there():
    decoder = Environments(tiny_gym(env="Pendulum-v1"), 1).decoder
    actions = decoder(torch.tensor([[0.0], [0.5], [-1.0], [9.0]]))
    assert np.stack(actions).tolist() == [[0], [1], [-2], [2]]  # torques up to 2
    assert all(make(tiny_gym(env="Pendulum-v1")).action_space.contains(action) for action in actions)


@pytest.mark.parametrize("space", [Box(-2, 6, (2, 2)), Box(-np.inf, np.inf, (3,)), Discrete(4, start=-1)])
def test_action_spaces(space):
    with registered(actions=space):
        training = Training(tiny_gym(env="Made-v0"))
        experience = training.sample()
    for environment in training.tier.training.envs:
        assert all(space.contains(action) for action in environment.unwrapped.actions)
    assert len(experience.actions) == experience.rows


# --------------------------------------------------------------------------------------------------- errors


def failing(error):
    def entry_point():
        raise error

    return entry_point


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env": "CartPole-v7"}, "unknown environment 'CartPole-v7'; did you mean 'CartPole-v1'?"),
        ({"env": "cart pole"}, "unknown environment 'cart pole'; did you mean 'CartPole-v1'?"),
        ({"env": "ALE/Pong-v5"}, 'pip install "gymnasium[atari]"'),
        ({"env": "nowhere:Pole-v0"}, "No module named 'nowhere'"),
        ({"env": "Blackjack-v1"}, "Blackjack-v1: its observation space Tuple(Discrete(32), Discrete(11), Discrete(2))"),
        ({"env": "CartPole-v1", "slippery": False}, "CartPole-v1 has no ice: slippery is for FrozenLake only"),
    ],
)
def test_a_wrong_environment_is_one_line_and_leaves_nothing_behind(settings, message, tmp_path, capsys):
    with pytest.raises(UsageError) as raised:
        Gym(tiny_gym(**settings))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    options = ["--no-slippery" if name == "slippery" else f"--{name}={value}" for name, value in settings.items()]
    assert main(["run", "gym", *options, "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            gymnasium.error.DependencyNotInstalled('MuJoCo is not installed, run `pip install "gymnasium[mujoco]"`'),
            'Made-v0: MuJoCo is not installed, run `pip install "gymnasium[mujoco]"`',
        ),
        (
            ModuleNotFoundError("No module named 'jax'", name="jax"),
            "Made-v0: No module named 'jax', run `pip install \"gymnasium[jax]\"`",
        ),
    ],
)
def test_a_missing_package_is_named(error, message):
    with registered(failing(error)), pytest.raises(UsageError) as raised:
        Gym(tiny_gym(env="Made-v0"))
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        ({"observations": Dict(a=Discrete(2))}, "observation space Dict('a': Discrete(2)) is not supported"),
        ({"actions": MultiDiscrete([2, 3])}, "action space MultiDiscrete([2 3]) is not supported; supported"),
        ({"actions": Box(0, 9, (2,), np.int64)}, "Discrete and Box (of floating-point numbers)"),
    ],
)
def test_an_unsupported_space_is_named(spaces, message):
    with registered(**spaces), pytest.raises(UsageError) as raised:
        Gym(tiny_gym(env="Made-v0"))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"initial_states": 3}, "initial_states must be a multiple of steps_per_batch (2), got 3"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"validation_episodes": 0}, "validation_episodes must be at least 1, got 0"),
        ({"max_episode_steps": 0}, "max_episode_steps must be None or at least 1, got 0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UsageError) as raised:
        GymConfig(**settings)
    assert str(raised.value) == message
