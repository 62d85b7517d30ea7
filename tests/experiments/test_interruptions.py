"""Two hundred interruptions of whole commands, at moments that nobody has chosen. `pytest -m slow` selects them.

Each command is interrupted and started again until an attempt gets through, and so on in a new directory; then all is
as if it had never been disturbed. With `-s`, each says what it has seen.
"""

import json
import random
import signal
import time

import pytest
from interruptions import Command, Tally, contents, interrupt

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
SMALL = "--initial-states 8 --group-size 4 --microbatch-size 4 --hidden 16 --checkpoint-every 2".split()
GYM = "--env Pendulum-v1 --initial-states 2 --group-size 3 --microbatch-size 2 --hidden 16".split()
GYM += "--max-episode-steps 8 --validation-episodes 2 --checkpoint-every 2".split()
COMMANDS = {
    "bandit": (["run", "bandit", "--steps", 150, *SMALL, "--resume"], 60),
    "gym": (["run", "gym", "--steps", 60, *GYM, "--resume"], 50),
    "ladder": (["ladder", "--tiers", "bandit,gym", "--budget", "smoke", "--seeds", 1, "--jobs", 2], 60),
    "ablation": (["run", "bandit", "--ablate", "--seeds", 1, "--steps", 2, *SMALL], 30),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_whatever_interrupts_a_command_the_next_one_goes_on(tmp_path, name):
    arguments, wanted = COMMANDS[name]
    started = time.monotonic()
    undisturbed = Command(*arguments, "--out", tmp_path / "undisturbed")
    assert undisturbed.end(timeout=600) == 0, undisturbed.errors
    latest = 1.1 * (time.monotonic() - started)
    expected = contents(tmp_path / "undisturbed")
    chance, tally = random.Random(name), Tally()
    while tally.kills.total() < wanted:
        root = tmp_path / str(tally.finished)
        while not attempt(Command(*arguments, "--out", root), latest, chance, tally):
            pass
        tally.finished += 1
        assert contents(root) == expected
    print(f"\n{name}: {json.dumps(vars(tally))}")


def attempt(command, latest, chance, tally):
    """Whether the command gets through before it is interrupted."""
    end = time.monotonic() + chance.uniform(0, latest)
    while command.process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    if command.process.poll() is None:
        return interrupt(command, chance.choice(SIGNALS), chance, tally)
    assert command.end() == 0, command.errors
    assert "failed" not in command.output and "in use" not in command.output
    return True
