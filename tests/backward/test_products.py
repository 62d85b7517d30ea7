"""Gram matrix and overlaps of written-out gradients, by torch and by the kernel in Triton's interpreter."""

from __future__ import annotations

import math

import pytest
import torch
from kernels import DEVICE, needs_triton
from torch import Tensor

from proma_bench.backward import products
from proma_bench.backward.factors import OuterProducts
from proma_bench.backward.measure import Measured, Workspace, measure
from proma_bench.backward.products import CONTRACTION, TILES, inner_products, stacked_products

PROGRAM = 256 * TILES  # columns of one program, for few sequences
KERNEL = pytest.param(True, marks=needs_triton, id="kernel")


@pytest.fixture
def by_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the kernel is to be used, as it is on a GPU."""
    is_wanted: bool = request.param
    if is_wanted:
        monkeypatch.setattr(products, "has_kernel", lambda rows: rows.dtype == torch.float32)
    return is_wanted


def drawn(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def adversarial(sequences: int, length: int) -> Tensor:
    """Rows of very unequal size: usual, zero, tiny, huge, and two that are nearly parallel."""
    rows = drawn((sequences, length), sequences, torch.float32)
    scales = torch.tensor([1.0, 0.0, 1e-10, 1e10, 1.0])
    rows *= scales.repeat(sequences)[:sequences].unsqueeze(1)
    rows[-1] = rows[0] * (1 + 1e-3 * rows[-1].sign())
    return rows


@pytest.mark.parametrize("by_kernel", [pytest.param(False, id="torch"), KERNEL], indirect=True)
@pytest.mark.parametrize("running_type", [None, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("sequences", "length"), [(1, 1), (2, 300), (8, PROGRAM), (8, 2 * PROGRAM + 77), (15, 1000), (16, 5000), (63, 4100)]
)
def test_products_are_those_of_float64(
    sequences: int, length: int, running_type: torch.dtype | None, by_kernel: bool
) -> None:
    seq_grads = adversarial(sequences, length)
    running = None if running_type is None else drawn((length,), 7, torch.float32).to(running_type)
    device = DEVICE if by_kernel else torch.device("cpu")
    stack = torch.full((sequences if running is None else sequences + 1, length), math.nan, device=device)
    stack[:sequences] = seq_grads
    found = stacked_products(stack, sequences, None if running is None else running.to(device)).cpu()

    wide = seq_grads.double()
    all_rows = wide if running is None else torch.cat([wide, running.double().unsqueeze(0)])
    scale = all_rows.norm(dim=1).unsqueeze(1) * wide.norm(dim=1)
    error = (found.double() - all_rows @ wide.T).abs()
    assert bool((error <= 2e-6 * scale).all()), (error / scale).nan_to_num().max()


@needs_triton
@pytest.mark.parametrize("by_kernel", [KERNEL], indirect=True)
def test_a_tensor_in_several_blocks_is_measured_by_the_kernel(by_kernel: bool) -> None:
    shape, running = torch.Size((7, 3)), drawn((7, 3), 5)
    left, right = drawn((4, 2, 7), 1), drawn((4, 2, 3), 2)

    def measured(dtype: torch.dtype, device: torch.device, limit: int) -> Measured:
        use = OuterProducts(left.to(device, dtype), right.to(device, dtype), dtype)
        advantages = torch.ones(4, dtype=dtype, device=device)
        return measure([use], running.to(device), shape, advantages, Workspace(limit), "rows")

    found = measured(torch.float32, DEVICE, limit=5 * 3 * 4 * 5)
    wanted = measured(torch.float64, torch.device("cpu"), limit=2**20)
    assert 0 < found.kept_rows < 7 and wanted.kept_rows == 7
    torch.testing.assert_close(found.gram.cpu(), wanted.gram.float())
    torch.testing.assert_close(found.overlap.cpu(), wanted.overlap.float())


@pytest.mark.parametrize("length", [1, CONTRACTION, CONTRACTION + 1, 2 * CONTRACTION, 3 * CONTRACTION + 5])
def test_long_rows_are_multiplied_in_parts_that_add_up(length: int) -> None:
    left, right = drawn((2, length), 1), drawn((3, length), 2)
    wanted = torch.tensor([[math.fsum((a * b).tolist()) for b in right] for a in left], dtype=torch.float64)
    torch.testing.assert_close(inner_products(left, right), wanted, rtol=1e-10, atol=1e-10)


def test_a_cpu_float64_and_many_sequences_take_torch() -> None:
    assert not products.has_kernel(torch.ones(8, 2))
    assert not products.has_kernel(torch.ones(8, 2, device="meta", dtype=torch.float64))
