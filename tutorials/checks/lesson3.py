"""Episodes: log-probs of whole episodes, pairs, verdicts, and what a score costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from checks import exercise
from proma_bench.report.frontier import Trajectory
from proma_bench.report.judging import judge
from proma_bench.report.paired import Estimate
from proma_bench.runs.criteria import Criteria


@exercise
def of_episodes(answer: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    ids = torch.tensor([0, 0, 0, 1, 2, 2])
    log_probs = torch.tensor([-1.0, -2.0, -4.0, -0.5, -0.25, -3.0], dtype=torch.float64)
    expected = torch.tensor([-7.0, -0.5, -3.25], dtype=torch.float64)
    for order in (torch.arange(6), torch.tensor([3, 0, 4, 1, 5, 2])):
        found = torch.as_tensor(answer(log_probs[order], ids[order], 3), dtype=torch.float64)
        assert found.shape == (3,), (
            f"There are 3 episodes, so there are 3 log-probs; yours have shape {[*found.shape]}."
        )
        means = expected / ids.bincount()
        assert not torch.allclose(found, means), (
            "These are means over the steps. The probability of an episode is a product, so its log is a sum: "
            "a long episode has a lower one."
        )
        where = "" if order[0] == 0 else " when the steps of different episodes come mixed"
        assert torch.allclose(found, expected), f"Expected {expected.tolist()}, got {found.tolist()}{where}."
    return "One number per sequence, whatever its length."


@exercise
def pairs(answer: Callable[[dict[int, float], dict[int, float]], Sequence[float]]) -> str:
    ours, theirs = {0: 5.0, 2: 1.0, 1: 4.0, 7: 9.0}, {1: 3.5, 0: 4.0, 2: 3.0, 3: 0.0}
    found = answer(ours, theirs)
    assert np.ndim(found) == 1, "Return all the differences, one a pair: their spread is what the interval is made of."
    given = sorted(round(float(value), 9) for value in found)
    by_place = sorted(a - b for a, b in zip(ours.values(), theirs.values(), strict=True))
    assert given != by_place, "You have paired runs by their place. A pair is two runs of one seed."
    assert len(given) == 3, f"Seeds 0, 1 and 2 are there on both sides, which makes 3 pairs; yours are {len(given)}."
    assert given != [-1.0, -0.5, 2.0], "The sign is the wrong way round: ours minus theirs."
    assert given == [-2.0, 0.5, 1.0], f"The differences are -2, 0.5 and 1; yours are {given}."
    return "What a seed does to both runs has dropped out."


@exercise
def not_lower(answer: Callable[[float, float, float], str]) -> str:
    cases = [(-1.0, 3.0), (0.5, 3.0), (-9.0, -6.0), (-9.0, -2.0), (-9.0, 4.0), (-5.0, 1.0), (-4.0, -1.0)]
    for low, high in cases:
        found = answer(low, high, 5.0)
        expected = judge("not lower", Estimate((low + high) / 2, low, high, 10), Criteria(margin=5.0))
        assert found in ("holds", "fails", "inconclusive"), f"{found!r} is no verdict."
        why = {
            "holds": "even its low end is not below the loss that the margin allows",
            "fails": "even its high end is a loss larger than the margin allows",
            "inconclusive": "the largest loss that is allowed lies inside, so the data fit both; that is no failure",
        }[expected]
        assert found == expected, f"[{low:g}, {high:g}] with a margin of 5: you say {found}, but {why}: {expected}."
    return "The interval decides, and nothing else."


@exercise
def kl_at(answer: Callable[[np.ndarray, np.ndarray, float], float]) -> str:
    scores = np.array([0.1, 0.2, 0.25, 0.3, 0.6, 0.7, 0.9])
    kl = np.array([0.01, 0.02, 0.5, 0.04, 0.08, 0.1, 0.2])
    run = Trajectory(scores, kl, smoothing=1)
    for level in (0.3, 0.2, 0.9, 0.45, 0.55, 0.1):
        found, expected = float(answer(scores, kl, level)), float(run.at(np.array([level]))[0])
        assert np.isclose(found, expected) or level != 0.45 or not np.isclose(found, 0.08), (
            "Almost: that is the KL of the first step with such a score. The score was reached between two steps."
        )
        assert np.isclose(found, expected), f"The score reaches {level:g} with KL {expected:.4g}; yours is {found:.4g}."
    return "That is one run along its score; the frontier is the best of several."
