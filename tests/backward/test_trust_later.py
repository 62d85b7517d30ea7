"""Two microbatches of the same operations, of which the second cuts or joins other rows: it is looked at anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from between import Between, on
from torch import Tensor
from trust import Batch, Case, assert_outcome, double


def rows(time: int, seed: int) -> Tensor:
    shape = (4, 6) if time == 0 else (4, time, 6)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(hidden: Tensor) -> Tensor:
    return torch.softmax(hidden @ hidden.mT, -1) @ hidden


def later(first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor], *times: int) -> Case:
    """The function between two layers is another one in the second microbatch."""
    batches = on(*[rows(time, seed) for seed, time in enumerate(times or (0, 0))])
    change: Callable[[Any], object] = lambda model: setattr(model, "function", second)  # noqa: E731
    return Case(double(Between(first)), [batches[0], batches[1]._replace(before=change)])


def windows(hidden: Tensor) -> Tensor:
    """Attention among six tokens. Where sequences have three, they see one another."""
    return attention(hidden.reshape(-1, 6, 5)).reshape(hidden.shape)


def pooled(hidden: Tensor) -> Tensor:
    means = F.avg_pool1d(hidden.flatten(0, 1).T.unsqueeze(0), 6)
    return F.interpolate(means, scale_factor=6).squeeze(0).T.reshape(hidden.shape)


def centred(shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    def function(hidden: Tensor) -> Tensor:
        seen = hidden.reshape(shape)
        return (seen - seen.mean(1, keepdim=True)).reshape(hidden.shape)

    return function


def turned(*axes: int) -> Callable[[Tensor], Tensor]:
    return lambda hidden: attention(hidden.transpose(*axes)).transpose(*axes)


def unfolded(axis: int) -> Callable[[Tensor], Tensor]:
    return lambda hidden: F.pad(hidden, (0, 0, 0, 1, 0, 1)).unfold(axis, 2, 1).prod(-1)[:4, :4]


def smoothed(*size: int) -> Callable[[Tensor], Tensor]:
    return lambda hidden: hidden + F.avg_pool2d(hidden.unsqueeze(0), size).squeeze(0)


def grouped(groups: int) -> Callable[[Tensor], Tensor]:
    return lambda hidden: F.group_norm(hidden.unsqueeze(0), groups).squeeze(0)


def stacked(*order: int) -> Callable[[Tensor], Tensor]:
    return lambda hidden: torch.stack([hidden.unbind(0)[number] for number in order])


def exchanged(*order: int) -> Callable[[Tensor], Tensor]:
    return lambda hidden: torch.cat([hidden.chunk(2)[number] for number in order])


def strided(step: int) -> Callable[[Tensor], Tensor]:
    return lambda hidden: hidden.contiguous().as_strided((4, 5), (step, 1), 0)


CHANGES: dict[str, Callable[[], Case]] = {
    "shorter than a window": lambda: later(windows, windows, 6, 3),
    "shorter than several windows": lambda: later(windows, windows, 12, 3),
    "shorter than a pool": lambda: later(pooled, pooled, 6, 3),
    "seen in another shape": lambda: later(centred((4, 5)), centred((2, 10))),
    "other axes transposed": lambda: later(turned(1, 2), turned(0, 1), 5, 5),
    "another axis unfolded": lambda: later(unfolded(1), unfolded(0), 4, 4),
    "another axis pooled": lambda: later(smoothed(1, 5), smoothed(4, 1)),
    "groups of two": lambda: later(grouped(4), grouped(2)),
    "stacked in another order": lambda: later(stacked(0, 1, 2, 3), stacked(1, 0, 2, 3)),
    "halves exchanged": lambda: later(exchanged(0, 1), exchanged(1, 0)),
    "rows that overlap": lambda: later(strided(5), strided(3)),
}


@pytest.mark.parametrize("uncovered", [False, True], ids=["default", "uncovered"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_was_sound_before_is_looked_at_anew(change: str, uncovered: bool) -> None:
    assert_outcome(CHANGES[change](), "backward", uncovered)


def test_packed_windows_that_no_longer_fit_the_sequences() -> None:
    def packed(*lengths: int) -> Batch:
        ids = torch.arange(2).repeat_interleave(torch.tensor(lengths)).unsqueeze(0)

        def log_probs(model: Any) -> Tensor:
            found = model(rows(3, 0).view(1, 12, 6)).sin().sum(-1)
            return found.new_zeros(2).index_add(0, ids.flatten(), found.flatten())

        return Batch(log_probs, torch.tensor([1.0, -0.5], dtype=torch.float64), ids)

    def windows_of_three(hidden: Tensor) -> Tensor:
        return attention(hidden.reshape(1, -1, 3, 5)).reshape(hidden.shape)

    assert_outcome(
        Case(double(Between(windows_of_three)), [packed(6, 6), packed(3, 9), packed(4, 8)], "raised"), "backward"
    )
