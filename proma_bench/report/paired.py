"""Which runs form a pair, and how large the difference between the members of many pairs is."""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from proma_bench.errors import UsageError
from proma_bench.learning.methods import all_methods, method_named
from proma_bench.report.settings import completed
from proma_bench.report.statistics import LEAST_SEEDS, Array
from proma_bench.runs.criteria import Criteria
from proma_bench.runs.directory import ABOUT, Run
from proma_bench.runs.rules import digest_of_rule

_NOT_SHARED = {"method", "seed", "learning_rate", "checkpoint_every"} | ABOUT
"""What may differ between runs that are compared, besides the settings that only one method reads."""


class Estimate(NamedTuple):
    """An interquartile mean over ``n`` paired differences and its interval (NaN for fewer than five pairs)."""

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


def estimate(differences: Sequence[float] | Array, criteria: Criteria, parts: int = 1) -> Estimate:
    """The interquartile mean of paired differences with its interval; pairs without a value do not count.

    Student's t-interval with a robust mean: the estimate plus and minus its standard error, times the size that the
    ratio of the two seldom exceeds without a difference (`_null`). So the level is right for few pairs, where that of a
    bootstrap is not, and the same differences always give the same interval. When all are equal, so are the ends.

    Args:
        differences: one a pair; NaN where it was not measured.
        criteria: of the comparison, for the level.
        parts: of how many intervals one verdict is made; the level is that of all together (Bonferroni).
    """
    values = _measured(differences)
    n = len(values)
    centre = float(interquartile_mean(values)) if n else float("nan")
    if n < LEAST_SEEDS:
        return Estimate(centre, float("nan"), float("nan"), n)
    half = float(standard_error(values) * np.quantile(_null(n), 1 - (1 - criteria.confidence) / parts))
    return Estimate(centre, centre - half, centre + half, n)


def p_value(differences: Sequence[float] | Array, line: float = 0.0) -> float:
    """How often samples without a difference from ``line`` are as far from it as this one, on either side.

    It is below 0.05 when the line is outside of the 95 % interval; NaN for fewer than five pairs.
    """
    values = _measured(differences)
    if len(values) < LEAST_SEEDS:
        return float("nan")
    distance, error = abs(float(interquartile_mean(values)) - line), float(standard_error(values))
    if not distance:
        return 1.0
    null = _null(len(values))
    further = len(null) - np.searchsorted(null, distance / error) if error else 0
    return float((1 + further) / (1 + len(null)))


def standard_error(values: Array) -> Array:
    """That of the interquartile mean over the last axis: the larger one of two, as each misses something.

    The one from the winsorised variance (Tukey and McLaughlin, 1963) does not see what is trimmed, as seeds that failed
    beside many equal ones; that of the ordinary mean does not see what trimming costs.
    """
    n = values.shape[-1]
    cut = n // 4
    ordered = np.sort(values, axis=-1)
    winsorised = np.clip(ordered, ordered[..., cut, None], ordered[..., n - cut - 1, None])
    robust = winsorised.std(axis=-1, ddof=1) * n / (n - 2 * cut)
    return np.asarray(np.maximum(robust, values.std(axis=-1, ddof=1)) / np.sqrt(n))


@functools.cache
def _null(n: int) -> Array:
    """Sizes of estimate over standard error in samples without a difference, in order: drawn once, by a seed.

    The samples are uniform, as among the usual distributions the flat ones give the largest ratios: with normal
    ones the level is kept with room to spare, and with heavy tails even more.
    """
    samples = np.random.default_rng(0).uniform(-1, 1, size=(max(1_000, 1_000_000 // n), n))
    return np.sort(np.abs(interquartile_mean(samples) / standard_error(samples)))


def _measured(differences: Sequence[float] | Array) -> Array:
    values = np.asarray(differences, dtype=float)
    return values[~np.isnan(values)]


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
    def is_smoke_run(self) -> bool:
        """Whether the runs only show that the code works: they were begun without criteria."""
        return all(run.config.get("criteria", 0) is None for run in self.members)

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


def _own_settings(method: str) -> frozenset[str]:
    try:
        return method_named(method).settings
    except UsageError:  # of a plug-in that is not there
        return frozenset()


def _comparable(title: str, runs: list[Run]) -> Comparable:
    members = _majority(runs, _shared_settings)
    for name in dict.fromkeys(run.config["method"] for run in members):
        same = _majority([run for run in members if run.config["method"] == name], _values_of(_own_settings(name)))
        members = [run for run in members if run.config["method"] != name or run in same]
    same_settings = members
    members, changed = _of_one_rule(same_settings)
    notes = [f"{title}: {line}" for line in changed]
    if other := [run for run in runs if run not in same_settings]:
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


def _of_one_rule(members: list[Run]) -> tuple[list[Run], list[str]]:
    """The runs of each method that were made with one text of its update rule, and a line for the others."""
    digests = {id(run): digest_of_rule(run.path) for run in members}
    left_out, lines = set(), []
    for name in dict.fromkeys(run.config["method"] for run in members):
        runs = [run for run in members if run.config["method"] == name]
        same = set(map(id, _majority(runs, lambda run: str(digests[id(run)]))))
        if other := [run for run in runs if id(run) not in same]:
            left_out |= set(map(id, other))
            lines.append(
                f"{len(other)} of {len(runs)} runs of {name} were made with another version of its file and are left "
                f"out: {_paths(other)}"
            )
    return [run for run in members if id(run) not in left_out], lines


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
    return json.dumps({key: value for key, value in completed(run.config).items() if key not in own}, sort_keys=True)


def _values_of(names: frozenset[str]) -> Callable[[Run], str]:
    def values(run: Run) -> str:
        config = completed(run.config)
        return json.dumps({name: config.get(name) for name in names}, sort_keys=True)

    return values
