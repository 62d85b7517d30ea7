"""Optional trackers: the metrics that a run writes to disk anyway, sent to TensorBoard, Weights & Biases or trackio.

None is needed, and none is imported unless it was asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proma_bench import files
from proma_bench.errors import UsageError, require_known
from proma_bench.learning.config import RunConfig, to_json
from proma_bench.runs.directory import Metrics

PROJECT = "proma_bench"
_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}


class Tracker:
    """Sends each step's metrics to one tracker; ``none`` does nothing. It starts with the first step.

    Raises:
        UsageError: the tracker is unknown or its package is not installed.
    """

    def __init__(self, name: str, config: RunConfig, path: Path) -> None:
        require_known("tracker", name, ("none", *_MODULES))
        self._name, self._config, self._path = name, config, path
        self._log: Callable[[Metrics], Any] | None = None
        self._close: Callable[[], Any] = lambda: None
        self._module = None if name == "none" else _import(name)

    def log(self, metrics: Metrics) -> None:
        """Send one step."""
        if self._module is None:
            return
        if self._log is None:
            self._log, self._close = _start(self._name, self._module, self._config, self._path)
        self._log(metrics)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()


def numbers(metrics: Metrics) -> dict[str, float]:
    """What a tracker can draw: numbers, those in objects as ``METRIC/NAME``."""
    flat = dict(metrics)
    for name, value in metrics.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{key}": inner for key, inner in value.items()}
    return {name: value for name, value in flat.items() if isinstance(value, int | float)}


def _import(name: str) -> Any:
    try:
        return importlib.import_module(_MODULES[name])
    except ImportError:
        raise UsageError(f"--tracker {name} needs the package {name}: python -m pip install {name}") from None


def _start(name: str, module: Any, config: RunConfig, path: Path) -> tuple[Callable[[Metrics], Any], Callable[[], Any]]:
    """A function that sends a step, and one that ends the run."""
    if name == "tensorboard":
        writer = module.SummaryWriter(str(files.make_folder(path, "tensorboard")))

        def write(metrics: Metrics) -> None:
            for key, value in numbers(metrics).items():
                writer.add_scalar(key, value, metrics["step"])

        return write, writer.close
    module.init(project=PROJECT, name=config.name, config=to_json(config))
    return lambda metrics: module.log(numbers(metrics), step=metrics["step"]), module.finish
