"""How runs will be judged: stored in every run's ``config.json`` before its first step, and read from there."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from proma_bench.errors import UsageError

if TYPE_CHECKING:
    from proma_bench.learning.config import RunConfig

SCORES = ("score", "score_sampled")
MARGIN = 0.02
"""A final score counts as not lower if it is lower by less than this share of the tier's score range."""


@dataclass(frozen=True)
class Criteria:
    """The criteria of a comparison over paired seeds."""

    min_pairs: int = 10
    """With fewer paired seeds a verdict is at most inconclusive."""
    confidence: float = 0.95
    """Level of the two-sided intervals."""
    score: str = "score"
    """The metric that is the score: score (greedy) or score_sampled."""
    margin: float = MARGIN
    """What "not lower" allows, in units of the score."""
    learning_rate: float | None = None
    """That of the same-settings protocol, or None for the one that most pairs ran with."""
    resamples: int = 10_000
    """Not used: intervals were those of a bootstrap, whose level is wrong for few pairs. Kept for stored criteria."""
    smoothing: int = 5
    """Optimizer steps in the moving mean of a trajectory, before it is read off at a score."""
    levels: int = 20
    """Scores, evenly spaced over the common range, at which trajectories are compared."""

    def __str__(self) -> str:
        return (
            f"interquartile mean of the differences of paired seeds, {self.confidence:.0%} interval "
            f"(studentised, no bootstrap), at least {self.min_pairs} pairs, margin {self.margin:g}; "
            f"the score is that of {'sampled' if self.score == 'score_sampled' else 'greedy'} actions"
        )


def criteria_for(config: RunConfig) -> Criteria:
    """The criteria of a tier.

    The margin is a share of its score range, and nothing where no range is known; the learning rate is its default.
    """
    low, high = config.score_range or (0.0, 0.0)
    return Criteria(score=config.score_metric, margin=MARGIN * (high - low), learning_rate=type(config).learning_rate)


def to_json(criteria: Criteria) -> dict[str, Any]:
    """The criteria as stored in ``config.json``."""
    return asdict(criteria)


def from_json(stored: object) -> Criteria:
    """The criteria that `to_json` stored.

    Raises:
        UsageError: what is stored are no criteria.
    """
    if not isinstance(stored, dict) or stored.keys() != {field.name for field in fields(Criteria)}:
        raise UsageError(f"not criteria with {', '.join(field.name for field in fields(Criteria))}")
    counts = {"min_pairs", "resamples", "smoothing", "levels"}
    numbers = stored.keys() - counts - {"score"} - ({"learning_rate"} if stored["learning_rate"] is None else set())
    if not all(type(stored[name]) is int and 1 <= stored[name] <= 100_000 for name in counts):
        raise UsageError(f"the criteria's {', '.join(sorted(counts))} are whole numbers up to 100,000")
    if not all(type(stored[name]) in (int, float) and 0 <= stored[name] <= sys.float_info.max for name in numbers):
        raise UsageError(f"the criteria's {', '.join(sorted(numbers))} are numbers from 0 on")
    if stored["score"] not in SCORES:
        raise UsageError(f"the criteria's score is {' or '.join(SCORES)}, not {stored['score']!r:.40}")
    if not 0.5 <= stored["confidence"] < 1:
        raise UsageError(f"the criteria's confidence is at least 0.5 and below 1, not {stored['confidence']}")
    return Criteria(**stored)
