"""Checkpoints: everything that a run needs to continue as if it had never stopped.

``checkpoint/`` holds the last two, each a directory that is written under another name and then renamed, so that a
directory with the final name is complete. Tensors are safetensors, the rest is JSON; nothing is unpickled.

    checkpoint/step-00000020/policy.safetensors     the weights
                             training.safetensors   the optimizer's state and the generators' states
                             state.json             the step
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor

if TYPE_CHECKING:
    from proma_bench.experiments.training import Training

KEPT = 2


def save(folder: Path, training: Training) -> None:
    """Write a checkpoint of the training's present step and drop all but the last two.

    Raises:
        OSError: it cannot be written; the earlier ones are untouched then.
    """
    unfinished = folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        save_model(training.policy, str(unfinished / "policy.safetensors"))
        save_file(_tensors(training), unfinished / "training.safetensors")
        (unfinished / "state.json").write_text(json.dumps({"step": training.step}, allow_nan=False) + "\n")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)  # a full disk needs the room
        raise OSError(f"cannot write a checkpoint: {error}") from error
    final = folder / f"step-{training.step:08d}"
    shutil.rmtree(final, ignore_errors=True)  # one that could not be read
    os.replace(unfinished, final)
    for outdated in _newest_first(folder)[KEPT:]:
        shutil.rmtree(outdated)


def restore(folder: Path, training: Training, last_step: int) -> list[str]:
    """Bring a fresh training to the newest readable checkpoint that is not after ``last_step``.

    Leaves the training at step 0 when there is none. Returns a line for every checkpoint that could not be used.
    """
    problems = []
    for path in _newest_first(folder):
        step = int(path.name.removeprefix("step-"))
        if step > last_step:
            problems.append(f"{path} is ahead of the recorded metrics (step {last_step}); going back further")
            continue
        try:
            json.loads((path / "state.json").read_text())
            load_file(path / "policy.safetensors")
            tensors = load_file(path / "training.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            problems.append(f"{path} is damaged ({error}); going back further")
            continue
        load_model(training.policy, str(path / "policy.safetensors"))
        _load_tensors(training, tensors)
        training.step = step
        break
    return problems


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _tensors(training: Training) -> dict[str, Tensor]:
    """``generator/NAME`` and ``optimizer/INDEX/NAME``; the optimizer's settings come from the run's config."""
    named = {f"generator/{name}": generator.get_state() for name, generator in training.generators.items()}
    for index, state in training.optimizer.state_dict()["state"].items():
        named |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
    return named


def _load_tensors(training: Training, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        kind, *names = path.split("/")
        if kind == "generator":
            training.generators[names[0]].set_state(tensor)
        else:
            state.setdefault(int(names[0]), {})[names[1]] = tensor
    training.optimizer.load_state_dict({**training.optimizer.state_dict(), "state": state})
