"""Checkpoints: everything that a run needs to continue as if it had never stopped.

``checkpoint/`` holds the last two, each a directory that is written under another name and then renamed, so that a
directory with the final name is complete. Tensors are safetensors, the rest is JSON; nothing is unpickled.

    checkpoint/step-00000020/policy.safetensors     the weights
                             training.safetensors   the optimizer's state, the generators' states, and what the update
                                                    rule keeps, if it keeps anything
                             state.json             the step, and the SHA-256 of the other two files, and of the lines
                                                    of ``metrics.jsonl`` up to this step

A checkpoint is read and checked as a whole before anything of it is used: its files are those that were written, the
recorded steps are those that led to it, its tensors are those of this run in name, shape and type, and its numbers are
finite.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor

from proma_bench import files
from proma_bench.learning.config import RunConfig
from proma_bench.learning.methods import method_named
from proma_bench.projection.updates import memory_size
from proma_bench.runs import strict_json

if TYPE_CHECKING:
    from proma_bench.experiments.training import Training

KEPT = 2
TENSORS = ("policy.safetensors", "training.safetensors")
METRICS = "metrics.jsonl"


class Unfit(ValueError):
    """A checkpoint is not one of this run."""


# ------------------------------------------------------------------------------------------------ writing


def save(folder: Path, training: Training) -> None:
    """Write a checkpoint of the training's present step and drop all but the last two up to this step.

    Raises:
        RunError: ``folder`` is a link.
        OSError: it cannot be written; the earlier ones are untouched then.
    """
    root, name = folder.parent, folder.name
    for abandoned in files.make_folder(root, name).glob(files.UNFINISHED_FOLDER):  # by a process that was killed
        files.remove(abandoned)
    final = folder / f"step-{training.step:08d}"
    with files.scratch(root, name) as unfinished:  # gone on an error: a full disk needs the room
        try:
            save_model(training.policy, str(unfinished / TENSORS[0]))
            save_file(_tensors(training), unfinished / TENSORS[1])
        except SafetensorError as error:
            raise OSError(errno.EIO, f"cannot write a checkpoint: {error}", str(final)) from error
        digests = {tensors: _digest(unfinished / tensors) for tensors in TENSORS}
        digests[METRICS] = _digest_of_steps(root, training.step)
        files.write(unfinished, "state.json", strict_json.dumps({"step": training.step, "sha256": digests}))
        files.move(unfinished, final)  # in the place of one that could not be used
    reached = [path for step, path in _newest_first(folder) if step <= training.step]  # what is ahead takes no place
    for outdated in reached[KEPT:]:
        files.remove(outdated)


def _tensors(training: Training) -> dict[str, Tensor]:
    """``generator/NAME``, ``optimizer/INDEX/NAME`` and ``rule/PARAMETER``; settings come from the run's config."""
    named = {f"generator/{name}": generator.get_state() for name, generator in training.generators.items()}
    for index, state in training.optimizer.state_dict()["state"].items():
        named |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
    if training.proma is not None:
        named |= {f"rule/{name}": row for name, row in training.proma.state_dict().items()}
    return named


# ------------------------------------------------------------------------------------------------ reading


def restore(folder: Path, training: Training, last_step: int) -> list[str]:
    """Bring a fresh training to the newest usable checkpoint that is not after ``last_step``.

    Leaves the training at step 0 when there is none. Returns a line for every checkpoint that could not be used.
    """
    problems = [f"{path} is no checkpoint: it is passed over" for path in _strangers(folder)]
    for step, path in _newest_first(folder):
        if step > last_step:
            problems.append(f"{path} is ahead of the recorded metrics (step {last_step}); going back further")
            continue
        if step % training.config.steps_per_batch and step < training.config.steps:
            problems.append(f"{path} is in the middle of a batch, where the run once ended; going back further")
            continue
        try:
            content = _read(path, step, training)
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            problems.append(f"{path} is damaged or not of this run ({reason}); going back further")
            continue
        if not content.is_checked:
            problems.append(
                f"{path} was written by an earlier version, without the SHA-256 of files and steps; it is used"
            )
        content.apply(training)
        training.step = step
        break
    return problems


@dataclass(frozen=True)
class _Content:
    """What a checkpoint holds, checked to fit."""

    weights: dict[str, Tensor]
    generators: dict[str, Tensor]
    moments: dict[int, dict[str, Tensor]]
    memory: dict[str, Tensor]
    is_checked: bool

    def apply(self, training: Training) -> None:
        training.policy.load_state_dict(self.weights, strict=False)  # of tied weights the file has one
        for name, state in self.generators.items():
            training.generators[name].set_state(state)
        training.optimizer.load_state_dict({**training.optimizer.state_dict(), "state": self.moments})
        if training.proma is not None:
            training.proma.load_state_dict(self.memory)


def _read(path: Path, step: int, training: Training) -> _Content:
    """Read all, change nothing.

    Raises:
        OSError, ValueError, RecursionError, SafetensorError: it cannot be used.
    """
    if path.is_symlink() or path.parent.is_symlink():
        raise Unfit("it is a link, and links are not followed")
    state = strict_json.loads(files.read(path / "state.json"))
    if not isinstance(state, dict) or type(state.get("step")) is not int or state["step"] != step:
        raise Unfit(f"state.json is not that of step {step}")
    digests = state.get("sha256")
    for name in TENSORS:
        found = _digest(path / name, _most_bytes(training))
        if digests is not None and not (isinstance(digests, dict) and digests.get(name) == found):
            raise Unfit(f"{name} has not the SHA-256 of state.json")
    steps = digests.get(METRICS) if isinstance(digests, dict) else None
    if steps is not None and steps != _digest_of_steps(path.parent.parent, step):
        raise Unfit(f"the steps in {METRICS} are not those that led to it")
    weights, others = (load_file(path / name) for name in TENSORS)
    memory, generators = _under("rule/", others), _under("generator/", others)
    content = _Content(weights, generators, _by_index(others), memory, is_checked=steps is not None)
    _require_weights(content.weights, training.policy)
    _require_generators(content.generators, training.generators)
    _require_moments(content.moments, content.weights, training, step)
    _require_memory(content.memory, training)
    return content


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the tensors out whose names begin with this."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


def _by_index(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        match = re.fullmatch(r"optimizer/([0-9]{1,9})/(\w+)", path)
        if match is None:
            raise Unfit(f"unknown tensor {path!r:.60}")
        moments.setdefault(int(match[1]), {})[match[2]] = tensor
    return moments


def _require_weights(weights: dict[str, Tensor], policy: torch.nn.Module) -> None:
    own = policy.state_dict()
    if unknown := sorted(weights.keys() - own.keys()):
        raise Unfit(f"the policy has no {unknown[0]!r:.60}")
    stored = {own[name].data_ptr() for name in weights}
    if missing := sorted(name for name, tensor in own.items() if tensor.data_ptr() not in stored):
        raise Unfit(f"{missing[0]} is missing")
    for name, tensor in weights.items():
        _require_like(name, tensor, own[name])


def _require_generators(states: dict[str, Tensor], generators: dict[str, torch.Generator]) -> None:
    if states.keys() != generators.keys():
        raise Unfit(f"its generators are {', '.join(sorted(states)) or 'missing'}, not {', '.join(sorted(generators))}")
    for name, state in states.items():
        try:
            torch.Generator().set_state(state)
        except (RuntimeError, TypeError) as error:
            raise Unfit(f"the state of the generator {name} is none") from error


def _require_moments(
    moments: dict[int, dict[str, Tensor]], weights: dict[str, Tensor], training: Training, step: int
) -> None:
    """Every parameter that has been trained has AdamW's moments, of its own shape, and no other has."""
    if not _keeps_moments(training.config) and not moments:
        return
    own = training.policy.state_dict()
    stored = {own[name].data_ptr(): tensor for name, tensor in weights.items()}
    parameters = dict(enumerate(training.policy.parameters()))
    if unknown := sorted(moments.keys() - parameters.keys()):
        raise Unfit(f"the optimizer has no parameter {unknown[0]}")
    for index, parameter in parameters.items():
        state = moments.get(index)
        if state is None:
            if not torch.equal(stored[parameter.data_ptr()], parameter.detach().cpu()):
                raise Unfit(f"the optimizer's state of parameter {index}, which has been trained, is missing")
            continue
        wanted = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
        if state.keys() != wanted.keys():
            raise Unfit(f"the optimizer's state of parameter {index} is {', '.join(sorted(state))}")
        for name, tensor in state.items():
            _require_like(f"the optimizer's {name} of parameter {index}", tensor, wanted[name])
        if not 1 <= float(state["step"]) <= step:
            raise Unfit(f"the optimizer took {float(state['step']):g} steps with parameter {index}, not {step}")


def _keeps_moments(config: RunConfig) -> bool:
    """SGD has none, and a method with a step of its own leaves the optimizer out."""
    return config.optimizer == "adam" and method_named(config.method).step is None


def _require_memory(memory: dict[str, Tensor], training: Training) -> None:
    """Whether the update rule can go on with what it had kept, and has kept something if it is one that does."""
    rule = None if training.proma is None else training.proma.rule
    size = 0 if rule is None else memory_size(rule)
    if size and not memory:
        raise Unfit("what the update rule has kept is missing")
    names = {name for name, _ in training.policy.named_parameters()} if size else set()
    if unknown := sorted(memory.keys() - names):
        raise Unfit(f"the update rule keeps nothing of {unknown[0]!r:.60}")
    for name, row in memory.items():
        _require_like(f"what the update rule has kept of {name}", row, torch.zeros(size, dtype=torch.float64))


def _require_like(name: str, tensor: Tensor, wanted: Tensor) -> None:
    if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
        raise Unfit(f"{name} is {tensor.dtype} {[*tensor.shape]}, not {wanted.dtype} {[*wanted.shape]}")
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise Unfit(f"{name} is not finite")


def _digest(path: Path, limit: int = 2**62) -> str:
    with files.opened(path, limit) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_steps(root: Path, steps: int) -> str:
    """The SHA-256 of the recorded steps of a run, which differ from those of any other run."""
    digest = hashlib.sha256()
    with contextlib.suppress(FileNotFoundError), files.opened(root / METRICS, 2**62) as file:
        for line in itertools.islice(file, steps):
            digest.update(line)
    return digest.hexdigest()


def _most_bytes(training: Training) -> int:
    """More than either file can have: two moments for each weight, and what is small."""
    tensors: Any = training.policy.state_dict().values()
    return 4 * sum(tensor.nbytes for tensor in tensors) + 64 * files.MEGABYTE


# -------------------------------------------------------------------------------------------------- names


def _newest_first(folder: Path) -> list[tuple[int, Path]]:
    return sorted(_named(folder), reverse=True)


def _named(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("step-*"):
        if re.fullmatch(r"step-([0-9]{8}|[1-9][0-9]{8,17})", path.name):
            yield int(path.name.removeprefix("step-")), path


def _strangers(folder: Path) -> list[Path]:
    return sorted(set(folder.glob("step-*")) - {path for _, path in _named(folder)})
