"""The intra method: a microbatch's gradient without the part that lies in its dominant subspaces."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle import has_clear_cut, without_dominant_part
from torch import Tensor

from proma_bench.projection.config import ProjectionConfig
from proma_bench.projection.factored import dominant_directions, intra
from proma_bench.projection.gram import corrected_advantages
from proma_bench.projection.literal import accumulate, project

SEEDS, RANKS = st.integers(0, 2**31), st.integers(0, 6)


def draw(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """(gradient, output gradients, inputs) of up to 20 rows, some of them zero or twice there."""
    generator = torch.Generator().manual_seed(seed)
    rows, outputs, inputs = (int(torch.randint(1, high, (), generator=generator)) for high in (21, 13, 13))
    left, right = (torch.randn(rows, width, generator=generator, dtype=dtype) for width in (outputs, inputs))
    left[torch.rand(rows, generator=generator) < 0.2] = 0
    again = torch.randint(rows, (rows // 4,), generator=generator)
    left[: len(again)], right[: len(again)] = left[again], right[again]
    weights = torch.randn(rows, 1, generator=generator, dtype=dtype)
    return (left * weights).T @ right, left, right


def assert_near(result: Tensor, wanted: Tensor, gradient: Tensor, relative: float = 1e-8) -> None:
    assert (result - wanted).norm() <= relative * gradient.norm()


@given(seed=SEEDS, rank=RANKS)
def test_equals_the_one_by_full_svd(seed: int, rank: int) -> None:
    gradient, output_grads, inputs = draw(seed)
    assume(has_clear_cut(output_grads, inputs, rank))
    wanted = without_dominant_part(gradient, output_grads, inputs, rank)
    assert_near(intra(gradient, output_grads, inputs, rank), wanted, gradient)


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_equals_it_for_large_layers_whose_singular_values_fall(dtype: torch.dtype, relative: float) -> None:
    generator = torch.Generator().manual_seed(0)
    sides = []
    for width in (90, 130):
        left, _ = torch.linalg.qr(torch.randn(200, width, generator=generator, dtype=torch.float64))
        right, _ = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
        values = torch.full((width,), 0.01, dtype=torch.float64)
        values[:5] = torch.linspace(1, 0.5, 5)
        sides.append(left * values @ right)
    gradient = sides[0].T @ sides[1]
    wanted = without_dominant_part(gradient, *sides, 5)
    result = intra(gradient.to(dtype), sides[0].to(dtype), sides[1].to(dtype), 5)
    assert result.dtype == dtype
    assert_near(result.double(), wanted, gradient, relative)


@pytest.mark.parametrize("rank", [1, 8])
def test_directions_of_a_flat_spectrum_carry_nearly_as_much(rank: int) -> None:
    rows = torch.randn(300, 200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    carried = (rows @ dominant_directions(rows, rank)).square().sum()
    assert carried >= 0.9 * torch.linalg.svdvals(rows)[:rank].square().sum()


@given(seed=SEEDS, rank=RANKS, dtype=st.sampled_from([torch.float64, torch.float32]))
def test_the_removed_part_is_a_projection_of_low_rank(seed: int, rank: int, dtype: torch.dtype) -> None:
    gradient, output_grads, inputs = draw(seed, dtype)
    left, noise = intra(gradient, output_grads, inputs, rank), 1e-9 if dtype == torch.float64 else 1e-4
    removed, size = gradient - left, gradient.norm()
    assert int((torch.linalg.svdvals(removed) > noise * size).sum()) <= rank
    assert left.norm() <= (1 + noise) * size
    assert (removed * left).sum().abs() <= noise * size**2
    assert_near(intra(left, output_grads, inputs, rank), left, gradient, noise)
    contributing = inputs * output_grads.any(dim=1, keepdim=True)
    u, v = dominant_directions(output_grads, rank), dominant_directions(contributing, rank)
    assert (u.T @ left @ v).norm() <= noise * size
    for basis in (u, v):
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=dtype), atol=noise, rtol=0)


@given(seed=SEEDS, rank=RANKS, scale=st.sampled_from([1e-12, 1e-3, 1e12]))
def test_order_sign_and_scale_of_the_rows_do_not_matter(seed: int, rank: int, scale: float) -> None:
    gradient, output_grads, inputs = draw(seed)
    assume(has_clear_cut(output_grads, inputs, rank))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(inputs), generator=generator)
    signs = torch.randint(2, (2, len(inputs), 1), generator=generator) * 2.0 - 1
    changed = (output_grads * signs[0])[order] * scale, (inputs * signs[1])[order] / scale
    assert_near(intra(gradient, *changed, rank), intra(gradient, output_grads, inputs, rank), gradient)


@given(seed=SEEDS, rank=RANKS)
def test_rows_without_an_output_gradient_have_no_part(seed: int, rank: int) -> None:
    gradient, output_grads, inputs = draw(seed)
    assume(has_clear_cut(output_grads, inputs, rank))
    padded = torch.cat([output_grads, torch.zeros_like(output_grads)]), torch.cat([inputs, 100 * inputs.flip(0)])
    assert_near(intra(gradient, *padded, rank), intra(gradient, output_grads, inputs, rank), gradient)


@given(seed=SEEDS, rank=RANKS, dtype=st.sampled_from([torch.float64, torch.float32]))
def test_rows_whose_output_gradient_is_rounding_have_no_part(seed: int, rank: int, dtype: torch.dtype) -> None:
    """What should be zero is 1e-16 of the rest in practice; the inputs beside it are as large as any."""
    gradient, output_grads, inputs = draw(seed, dtype)
    assume(has_clear_cut(output_grads, inputs, rank))
    generator = torch.Generator().manual_seed(seed)
    eps, largest = torch.finfo(dtype).eps, output_grads.norm(dim=1).max()
    noise = torch.randn(output_grads.shape, generator=generator, dtype=dtype)
    rounding = 4 * eps * largest * noise / noise.norm(dim=1, keepdim=True)
    padded = torch.cat([output_grads, rounding]), torch.cat([inputs, 100 * inputs.flip(0)])
    tolerance = 1e-8 if dtype == torch.float64 else 1e-3
    assert_near(intra(gradient, *padded, rank), intra(gradient, output_grads, inputs, rank), gradient, tolerance)


@pytest.mark.parametrize("scale", [2.0**-90, 2.0**90])
def test_float32_rows_whose_squares_leave_its_range_count(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    output_grads, inputs = (torch.randn(10, width, generator=generator) for width in (6, 7))
    gradient = output_grads.T @ inputs
    assert has_clear_cut(output_grads, inputs, 3)
    assert_near(
        intra(gradient, output_grads * scale, inputs, 3), intra(gradient, output_grads, inputs, 3), gradient, 1e-4
    )


@given(seed=SEEDS, rank=RANKS)
def test_rounding_of_either_side_does_not_matter(seed: int, rank: int) -> None:
    """Rows of zeros become rows of rounding, and rows that are there twice differ by it."""
    gradient, *sides = draw(seed)
    assume(has_clear_cut(*sides, rank))
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(side.shape, generator=generator, dtype=side.dtype) for side in sides]
    rounded = [side + 1e-15 * side.abs().max() * own for side, own in zip(sides, noise, strict=True)]
    assert_near(intra(gradient, *rounded, rank), intra(gradient, *sides, rank), gradient)


@given(seed=SEEDS)
def test_rank_zero_removes_nothing_and_a_full_one_everything(seed: int) -> None:
    gradient, output_grads, inputs = draw(seed)
    assert torch.equal(intra(gradient, output_grads, inputs, 0), gradient)
    assert_near(intra(gradient, output_grads, inputs, len(inputs)), torch.zeros_like(gradient), gradient)


@pytest.mark.parametrize("rows", [0, 3])
def test_zero_rows_and_none_at_all_leave_a_zero_gradient(rows: int) -> None:
    assert torch.equal(intra(torch.zeros(4, 5), torch.zeros(rows, 4), torch.ones(rows, 5), 2), torch.zeros(4, 5))


def test_the_same_every_time_and_the_random_state_is_not_touched() -> None:
    gradient, output_grads, inputs = draw(3)
    state = torch.get_rng_state()
    first, second = (intra(gradient, output_grads, inputs, 2) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(state, torch.get_rng_state())


def test_it_is_not_for_sequence_gradients() -> None:
    config, seq_grads, ones = ProjectionConfig("intra"), torch.ones(2, 3), torch.ones(2)
    for call in (
        lambda: project(seq_grads[0], seq_grads, method="intra"),
        lambda: accumulate(None, seq_grads, ones, config),
        lambda: corrected_advantages(torch.eye(2), ones, ones, config),
    ):
        with pytest.raises(ValueError, match="method 'intra' takes a layer's output gradients and inputs"):
            call()
