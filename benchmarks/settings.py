"""How the suites are run: the options of the command line, and the machine that they ran on."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from proma_bench.experiments.workers import available_cores

PACKAGES = (
    "torch",
    "numpy",
    "transformers",
    "gymnasium",
    "opacus",
    "torchjd",
    "backpack-for-pytorch",
    "proma-bench",
)


@dataclass(frozen=True)
class Settings:
    """full: the sizes of the published tables; otherwise small siblings of them, for continuous integration.

    dtype: of parameters and activations.
    """

    full: bool
    device: torch.device
    dtype: torch.dtype

    @property
    def form(self) -> str:
        return "full" if self.full else "quick"

    @property
    def seconds(self) -> float:
        """What a comparison may take, unless the fewest rounds take longer."""
        return 240.0 if self.full else 1.5

    @property
    def rounds(self) -> tuple[int, int]:
        """The fewest and the most."""
        return (5, 40) if self.full else (3, 100)

    def rounds_for(self, seconds_a_round: float) -> int:
        """How many rounds fit into the time."""
        fewest, most = self.rounds
        return max(fewest, min(most, int(self.seconds / max(seconds_a_round, 1e-6))))


def machine(settings: Settings) -> dict[str, object]:
    """What a reader needs to know about where the figures come from."""
    return {
        "cpu_model": _cpu_model(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "device": settings.device.type,
        "device_name": torch.cuda.get_device_name() if settings.device.type == "cuda" else _cpu_model(),
        "dtype": str(settings.dtype).removeprefix("torch."),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
