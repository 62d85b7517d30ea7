"""Episodes: log-probs of whole episodes, pairs, verdicts, and what a score costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from checks import exercise, explaining, normal, number, tensor
from proma_bench.report.frontier import Trajectory
from proma_bench.report.judging import judge
from proma_bench.report.paired import Estimate
from proma_bench.runs.criteria import Criteria


@exercise
def of_episodes(answer: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    draw = normal(0)
    for ids in ([0, 0, 0, 1, 2, 2], [1, 0, 2, 0, 2, 0], [3, 1, 0, 3, 2, 4, 4, 3, 0]):
        count, log_probs = max(ids) + 1, -draw(len(ids)).abs()
        expected = [sum(float(p) for p, i in zip(log_probs, ids, strict=True) if i == one) for one in range(count)]
        wanted = torch.tensor(expected, dtype=torch.float64)
        found = tensor(
            answer(log_probs, torch.tensor(ids), count),
            (count,),
            f"There are {count} episodes, so there are {count} log-probs",
        )
        means = wanted / torch.tensor(ids).bincount()
        assert not torch.allclose(found, means), (
            "These are means over the steps. The probability of an episode is a product, so its log is a sum: "
            "a long episode has a lower one."
        )
        where = "" if ids == sorted(ids) else " when the steps of different episodes come mixed"
        assert torch.allclose(found, wanted), f"Expected {_rounded(wanted)}, got {_rounded(found)}{where}."
    return "One number per sequence, whatever its length."


@exercise
def pairs(answer: Callable[[dict[int, float], dict[int, float]], Sequence[float]]) -> str:
    cases = [
        ({0: 5.0, 2: 1.0, 1: 4.0, 7: 9.0}, {1: 3.5, 0: 4.0, 2: 3.0, 3: 0.0}),
        ({4: 0.25, 9: 0.75}, {9: 0.5, 5: 1.0, 4: 0.375, 8: 0.0, 6: 0.125}),
    ]
    for ours, theirs in cases:
        seeds = sorted(ours.keys() & theirs.keys())
        with explaining(
            KeyError, "Some runs have not finished, so a seed may be on one side only: take those that are on both"
        ):
            found = answer(ours, theirs)
        what = "Return all the differences, one a pair: their spread is what the interval is made of"
        assert isinstance(found, list | tuple | Tensor | np.ndarray), f"{what}."
        given = sorted(round(value, 9) for value in tensor(found, (len(found),), what).tolist())
        by_place = sorted(a - b for a, b in zip(ours.values(), theirs.values(), strict=False))
        assert given != by_place, "You have paired runs by their place. A pair is two runs of one seed."
        assert len(given) == len(seeds), (
            f"Seeds {', '.join(map(str, seeds))} are there on both sides, which makes {len(seeds)} pairs; yours are "
            f"{len(given)}."
        )
        wanted = sorted(ours[seed] - theirs[seed] for seed in seeds)
        assert given != sorted(-value for value in wanted), "The sign is the wrong way round: ours minus theirs."
        assert given == wanted, f"The differences are {wanted}; yours are {given}."
    return "What a seed does to both runs has dropped out."


@exercise
def not_lower(answer: Callable[[float, float, float], str]) -> str:
    intervals = [
        (-1.0, 3.0),
        (0.5, 3.0),
        (-9.0, -6.0),
        (-9.0, -2.0),
        (-9.0, 4.0),
        (-5.0, 1.0),
        (-4.0, -1.0),
        (-9.0, -5.0),
    ]
    cases = [(low, high, 5.0) for low, high in intervals]
    cases += [(-1.0, 3.0, 0.5), (-3.0, -1.0, 0.5), (0.5, 3.0, 0.0), (-3.0, -0.25, 0.5)]
    for low, high, margin in cases:
        found = answer(low, high, margin)
        expected = judge("not lower", Estimate((low + high) / 2, low, high, 10), Criteria(margin=margin))
        assert found in ("holds", "fails", "inconclusive"), f"{found!r} is no verdict."
        why = {
            "holds": "even its low end is not below the loss that the margin allows",
            "fails": "even its high end is a loss larger than the margin allows",
            "inconclusive": "the largest loss that is allowed lies inside, so the data fit both; that is no failure",
        }[expected]
        assert found == expected, (
            f"[{low:g}, {high:g}] with a margin of {margin:g}: you say {found}, but {why}: {expected}."
        )
    return "The interval decides, and nothing else."


@exercise
def kl_at(answer: Callable[[np.ndarray, np.ndarray, float], float]) -> str:
    scores = np.array([0.1, 0.2, 0.25, 0.3, 0.6, 0.7, 0.9])
    kl = np.array([0.01, 0.02, 0.5, 0.04, 0.08, 0.1, 0.2])
    run = Trajectory(scores, kl, smoothing=1)
    for level in (0.3, 0.2, 0.9, 0.45, 0.55, 0.22, 0.1):
        found = number(answer(scores, kl, level), "The KL at one level is one number")
        expected = float(run.at(np.array([level]))[0])
        first = float(kl[np.argmax(scores >= level)])
        assert np.isclose(found, expected) or level != 0.45 or not np.isclose(found, first), (
            "Almost: that is the KL of the first step with such a score. The score was reached between two steps."
        )
        assert np.isclose(found, expected), f"The score reaches {level:g} with KL {expected:.4g}; yours is {found:.4g}."
    return "That is one run along its score; the frontier is the best of several."


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 3) for value in values.tolist()]
