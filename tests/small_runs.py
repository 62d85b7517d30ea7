"""Runs of a second or less."""

from proma_bench.config import BanditConfig


def tiny(**settings):
    """Six optimizer steps on three batches, a checkpoint after each batch."""
    defaults = {"steps": 6, "contexts": 8, "group_size": 4, "microbatch_size": 4, "hidden": 16, "checkpoint_every": 2}
    return BanditConfig(**{**defaults, **settings})


def without_timings(history):
    return [{name: value for name, value in step.items() if name != "seconds"} for step in history]
