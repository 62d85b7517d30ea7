"""A run is interrupted again and again, whatever it is doing: at the end it holds what an undisturbed run gives."""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import random
import signal
import sys
import time

import pytest
from small_runs import heed_signals, options_of, tiny, tiny_gym, without_timings

from proma_bench.cli import main
from proma_bench.experiments.training import train
from proma_bench.runs.directory import read_run

KILLS = 12  # on each tier, at least
SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
IMPORTED = """pytest torch._dynamo proma_bench.cli.commands proma_bench.experiments.run proma_bench.experiments.trackers
proma_bench.runs.checkpoints proma_bench.tiers.bandit.tier proma_bench.tiers.gym.tier"""


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED.split())
    return context


def recorded(file):
    return file.read_bytes().count(b"\n") if file.exists() else 0


def go_on(path, config, begun):
    """What a process does that is going to be interrupted."""
    heed_signals()
    begun.set()
    sys.argv = ["proma-bench", "run", config.tier, *options_of(config), "--out", str(path), "--resume"]
    sys.exit(main())


def kills_until_done(path, config, processes, chance):
    """Kill each process some steps on, at any moment of a step, or before it has done anything; how often it took."""
    kills = 0
    while True:
        target = recorded(path / "metrics.jsonl") + chance.randrange(8)
        begun = processes.Event()
        process = processes.Process(target=go_on, args=(path, config, begun))
        process.start()
        assert begun.wait(timeout=60)
        while process.is_alive() and recorded(path / "metrics.jsonl") < target:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.01))
        number = chance.choice(SIGNALS)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        process.join(timeout=60)
        if process.exitcode == 0:
            return kills
        assert process.exitcode in (128 + number, -number)
        kills += 1


@pytest.mark.parametrize(
    "config",
    [tiny(steps=60), tiny_gym(steps=60, initial_states=2, env="Pendulum-v1", max_episode_steps=4)],
    ids=["bandit", "gym"],
)
def test_runs_killed_at_random_points_are_the_uninterrupted_runs(tmp_path, processes, config):
    chance, kills = random.Random(0), 0
    for seed in itertools.count():
        one = dataclasses.replace(config, seed=seed)
        kills += kills_until_done(tmp_path / str(seed), one, processes, chance)
        survived = read_run(tmp_path / str(seed))
        assert survived.finished
        assert without_timings(survived.metrics) == without_timings(train(one))
        if kills >= KILLS:
            break
