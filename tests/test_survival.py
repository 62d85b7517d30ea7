"""SIGKILL, again and again, whatever a run is doing: at the end it holds what an undisturbed run gives."""

import multiprocessing
import random
import signal
import time

import pytest
from small_runs import go_on, tiny, tiny_gym, without_timings

from proma_bench.runs import read_run
from proma_bench.train import train

KILLS = 12  # of each run, at least
STEPS = 60


IMPORTED = "pytest torch._dynamo proma_bench.train proma_bench.checkpoints proma_bench.tiers.bandit proma_bench.tiers.gym".split()


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def recorded(file):
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.parametrize(
    "config",
    [tiny(steps=STEPS), tiny_gym(steps=STEPS, contexts=2, env="Pendulum-v1", max_episode_steps=4)],
    ids=["bandit", "gym"],
)
def test_a_run_killed_at_random_points_is_the_uninterrupted_run(tmp_path, processes, config):
    """Each process is killed some steps on, at any moment of a step, or before it has done anything."""
    chance, file, kills = random.Random(0), tmp_path / "metrics.jsonl", 0
    while True:
        target = recorded(file) + chance.randrange(8)
        process = processes.Process(target=go_on, args=(tmp_path, config))
        process.start()
        while process.is_alive() and recorded(file) < target:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.01))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= KILLS
    survived = read_run(tmp_path)
    assert survived.finished
    assert without_timings(survived.metrics) == without_timings(train(config))
