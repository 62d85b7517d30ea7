"""Stored runs, and which of them are compared."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recomputed.frontier import Columns, Criteria, Swept

BASELINE, OURS = "reinforce", "proma"
Line = dict[str, Any]


def stored(path: Path) -> list[Line]:
    """The lines of a file of stored runs."""
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


class Runs:
    """Those of one tier, by method, learning rate and seed."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.ended: dict[str, dict[float, dict[int, Columns]]] = {}
        self.observed: dict[tuple[float, int], Columns] = {}  # by rate and seed: REINFORCE, and no method of its own
        self.diverged: set[tuple[str, float, int]] = set()
        for line in lines:
            config = line["config"]
            self.criteria: Criteria = config["criteria"]
            method, rate, seed = config["method"], config["learning_rate"], config["seed"]
            if method == "observe":
                self.observed[rate, seed] = {k: np.array(v, dtype=float) for k, v in line["metrics"].items()}
            elif line["diverged"] is None:
                of_rate = self.ended.setdefault(method, {}).setdefault(rate, {})
                of_rate[seed] = {k: np.array(v, dtype=float) for k, v in line["metrics"].items()}
            else:
                self.diverged.add((method, rate, seed))

    def seeds(self, methods: Iterable[str], rates: Iterable[float], *, also_diverged: bool = False) -> list[int]:
        """Those that all of these methods have at all of these rates."""
        found = [
            set(self.ended.get(method, {}).get(rate, {}))
            | {seed for name, at, seed in self.diverged if also_diverged and (name, at) == (method, rate)}
            for method in methods
            for rate in rates
        ]
        return sorted(set.intersection(*found))

    def swept(self, method: str, rates: Sequence[float], seeds: Sequence[int]) -> Swept:
        return Swept([[self.ended[method][rate][seed] for rate in rates] for seed in seeds])

    def rates_of_claims(self) -> list[float]:
        """Those with at least half as many pairs as the one with the most."""
        pairs: Counter[float] = Counter()
        for baseline in ("grpo", "reinforce"):
            for rate in self.ended[OURS].keys() & self.ended[baseline].keys():
                pairs[rate] += len(self.seeds((OURS, baseline), (rate,)))
        return _frequent(pairs)

    def rates_of_the_sweep(self) -> list[float]:
        """Those at which more than half of the methods ran."""
        ran = Counter(rate for rates in self.ended.values() for rate in rates)
        return sorted(rate for rate, methods in ran.items() if 2 * methods > len(self.ended))


def _frequent(counts: Mapping[float, int]) -> list[float]:
    return sorted(rate for rate, count in counts.items() if count and 2 * count >= max(counts.values()))
