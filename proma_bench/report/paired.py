"""Which runs form a pair, and how large the difference between the members of many pairs is."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from proma_bench.learning.methods import all_methods
from proma_bench.report.statistics import Array
from proma_bench.runs.criteria import Criteria
from proma_bench.runs.directory import ABOUT, Run

_NOT_SHARED = {"method", "seed", "learning_rate", "checkpoint_every"} | ABOUT
"""What may differ between runs that are compared, besides the settings that only one method reads."""


class Estimate(NamedTuple):
    """An interquartile mean over ``n`` paired differences and its interval (NaN for fewer than three pairs)."""

    estimate: float
    low: float
    high: float
    n: int


def interquartile_mean(values: Array) -> Array:
    """The mean over the last axis without the lowest and the highest quarter: one wild seed does not move it.

    (Agarwal et al., arXiv 2108.13264, who publish it as ``rliable``; that brings in pandas, statsmodels and others for
    these two lines.)
    """
    cut = values.shape[-1] // 4
    return np.asarray(np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(axis=-1))


def estimate(differences: Sequence[float], criteria: Criteria) -> Estimate:
    """The interquartile mean of paired differences with its bootstrap interval; pairs without a value do not count.

    An expanded percentile interval (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015, section 5.3):
    the plain one, and BCa as well, are too narrow for ten pairs. In simulations without a difference they lay wholly
    below zero in 2.6 to 3.4 % of comparisons instead of 2.5 %, this one in 1.5 to 1.8 %. When all differences are
    equal, so are the ends. The resampling has a seed of its own: the same runs always give the same interval.
    """
    values = np.array([value for value in differences if not np.isnan(value)])
    n = len(values)
    centre = float(interquartile_mean(values)) if n else float("nan")
    if n < 3:
        return Estimate(centre, float("nan"), float("nan"), n)
    tail = (1 - criteria.confidence) / 2
    tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(tail, n - 1))
    drawn = np.random.default_rng(0).integers(n, size=(criteria.resamples, n))
    low, high = np.quantile(interquartile_mean(values[drawn]), [tail, 1 - tail])
    return Estimate(centre, float(low), float(high), n)


# ----------------------------------------------------------------------------------------------------- pairing


Key = tuple[str, float, int]
"""Of a run: its method, learning rate and seed."""


@dataclass(frozen=True)
class Comparable:
    """The runs of one tier that differ in method, learning rate and seed only; and why others are left out.

    Attributes:
        members: all of them, unfinished ones as well.
        runs: the finished ones, by method, learning rate and seed.
        diverged: those that diverged, likewise. They are in no pair, so every claim says how many pairs this costs.
    """

    title: str
    members: list[Run]
    runs: dict[Key, Run]
    diverged: dict[Key, Run]
    notes: list[str]

    @property
    def tier(self) -> str:
        return str(self.members[0].config["tier"])

    @property
    def task(self) -> str | None:
        """The environment or task; None on a tier that has only one."""
        return self.title.removeprefix(self.tier).removeprefix("/") or None

    def rates(self, ours: str, theirs: str) -> dict[float, list[int]]:
        """The learning rates at which both methods ran, each with the seeds that both have."""
        return _shared_seeds(self.runs, ours, theirs)

    def ended_rates(self, ours: str, theirs: str) -> dict[float, list[int]]:
        """`rates`, if the runs that diverged were finished as well."""
        return _shared_seeds(self.runs | self.diverged, ours, theirs)

    def diverged_seeds(self, ours: str, theirs: str, rates: Sequence[float]) -> set[int]:
        """The seeds that would be pairs at all of these learning rates if no run had diverged."""
        ended, finished = self.ended_rates(ours, theirs), self.rates(ours, theirs)
        pairs = [set.intersection(*(set(found.get(rate, [])) for rate in rates)) for found in (ended, finished)]
        return pairs[0] - pairs[1]

    def select(self, method: str, rates: Sequence[float], seed: int) -> list[Run]:
        """The runs of one method and seed at these learning rates."""
        return [self.runs[method, rate, seed] for rate in rates]


def comparable(runs: Sequence[Run]) -> list[Comparable]:
    """The runs of each tier that can be compared.

    Where a tier has runs of several settings, those that most runs share are kept and the others named in a note.
    """
    by_title = collections.defaultdict[str, list[Run]](list)
    for run in runs:
        by_title[run.config["title"]].append(run)
    return [_comparable(name, members) for name, members in sorted(by_title.items())]


def _comparable(title: str, runs: list[Run]) -> Comparable:
    members = _majority(runs, _shared_settings)
    for method in all_methods().values():
        same = _majority([run for run in members if run.config["method"] == method.name], _values_of(method.settings))
        members = [run for run in members if run.config["method"] != method.name or run in same]
    notes = []
    if other := [run for run in runs if run not in members]:
        notes.append(f"{title}: {len(other)} of {len(runs)} runs have other settings and are left out: {_paths(other)}")
    diverged = {_key(run): run for run in members if run.diverged is not None}
    notes += [f"{title}: {line}" for line in _divergences(members)]
    if unfinished := [run for run in members if not _complete(run) and run.diverged is None]:
        notes.append(f"{title}: {len(unfinished)} of {len(runs)} runs are unfinished and count in no claim")
    if resumed := [run for run in members if run.config.get("resumed")]:
        notes.append(
            f"{title}: {len(resumed)} of {len(runs)} runs were resumed with other versions of packages, so that their "
            f"results may differ: {_paths(resumed)}"
        )
    if extended := [run for run in members if run.config.get("extended")]:
        notes.append(
            f"{title}: {len(extended)} of {len(runs)} runs went on beyond the number of steps that they were started "
            f"with, and have one more score for it: {_paths(extended)}"
        )
    found: dict[Key, Run] = {}
    for run in filter(_complete, members):
        key = _key(run)
        if key in found:
            notes.append(f"{title}: {run.path} repeats {found[key].path} and counts in no claim")
        found.setdefault(key, run)
    return Comparable(title, members, found, {key: diverged[key] for key in diverged.keys() - found.keys()}, notes)


def _key(run: Run) -> Key:
    return run.config["method"], float(run.config["learning_rate"]), run.config["seed"]


def _shared_seeds(keys: Iterable[Key], ours: str, theirs: str) -> dict[float, list[int]]:
    """The learning rates that two methods have in common, each with the seeds that both have."""
    known = set(keys)
    found = collections.defaultdict[float, list[int]](list)
    for method, rate, seed in sorted(known):
        if method == ours and (theirs, rate, seed) in known:
            found[rate].append(seed)
    return dict(found)


def _divergences(members: Sequence[Run]) -> list[str]:
    """For each method and learning rate: how many of how many seeds diverged, at which step, and a reason."""
    by_setting = collections.defaultdict[tuple[str, float], list[Run]](list)
    for run in sorted(members, key=_key):
        by_setting[_key(run)[:2]].append(run)
    lines = []
    for (method, rate), runs in by_setting.items():
        ends = [(run.config["seed"], run.diverged) for run in runs if run.diverged is not None]
        if ends:
            steps = ", ".join(f"seed {seed} at step {end.step}" for seed, end in ends)
            lines.append(
                f"{method} with lr {rate:g} diverged with {len(ends)} of {len(runs)} seeds ({steps}); they count in no "
                f"claim, which favours what diverges more often. The first: {ends[0][1].reason:.200}"
            )
    return lines


def _complete(run: Run) -> bool:
    return run.diverged is None and len(run.metrics) == run.config["steps"]


def _majority(runs: list[Run], key: Callable[[Run], str]) -> list[Run]:
    """The runs with the most frequent key; finished runs count first, and of equally frequent keys the first wins."""
    finished = collections.Counter(key(run) for run in runs if _complete(run))
    started = collections.Counter(map(key, runs))
    most = max(started, key=lambda value: (finished[value], started[value]), default=None)
    return [run for run in runs if key(run) == most]


def _paths(runs: list[Run]) -> str:
    return f"{runs[0].path}" + (f" and {len(runs) - 1} more" if len(runs) > 1 else "")


def _shared_settings(run: Run) -> str:
    own = _NOT_SHARED.union(*(method.settings for method in all_methods().values()))
    return json.dumps({key: value for key, value in run.config.items() if key not in own}, sort_keys=True)


def _values_of(names: frozenset[str]) -> Callable[[Run], str]:
    return lambda run: json.dumps({name: run.config.get(name) for name in names}, sort_keys=True)
