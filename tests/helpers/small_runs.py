"""Runs of a second or less."""

import signal

from proma_bench.tiers.bandit.config import BanditConfig
from proma_bench.tiers.gym.config import GymConfig
from proma_bench.tiers.transformer.config import TransformerConfig


def tiny(**settings):
    """Six optimizer steps on three batches, a checkpoint after each batch."""
    defaults = {
        "steps": 6,
        "initial_states": 8,
        "group_size": 4,
        "microbatch_size": 4,
        "hidden": 16,
        "checkpoint_every": 2,
    }
    return BanditConfig(**{**defaults, **settings})


def tiny_gym(**settings):
    """The same of short episodes on CartPole."""
    defaults = {
        "steps": 6,
        "initial_states": 4,
        "group_size": 3,
        "microbatch_size": 2,
        "hidden": 16,
        "checkpoint_every": 2,
    }
    return GymConfig(**{**defaults, "validation_episodes": 2, "max_episode_steps": 20, **settings})


def tiny_transformer(**settings):
    """The same of answers of a model that has hardly begun to imitate."""
    defaults = {"steps": 4, "prompts": 4, "group_size": 3, "microbatch_size": 3, "steps_per_batch": 2}
    defaults |= {"checkpoint_every": 2, "validate_every": 2, "validation_questions": 6, "validation_samples": 2}
    return TransformerConfig(**{**defaults, "max_new_tokens": 5, "warm_start_steps": 4, **settings})


def without_timings(history):
    timings = ("seconds", "update_seconds")
    return [{name: value for name, value in step.items() if name not in timings} for step in history]


def options_of(config):
    """A run's settings for the command line."""
    usual = vars(type(config)())
    changed = {name: value for name, value in vars(config).items() if value != usual[name]}
    return [word for name, value in changed.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def heed_signals():
    """In a new process: children inherit ignored signals, as Ctrl-C in the background of a shell or SIGHUP in nohup."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
