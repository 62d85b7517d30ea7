"""PROMA is held to what it does on a GPU: how many kernels, how many bytes, and how little of it in float32.

A third of the layers and the whole vocabulary. The counts are exact, so the limits are close to them;
`benchmarks.device_cost` explains.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks.device_cost import Cost, costs


@pytest.fixture(scope="module")
def found() -> Iterator[tuple[Cost, Cost]]:
    """Plain autograd, and PROMA that records."""
    every = costs(layers=9, answer=512)
    yield every["plain autograd"], every["PROMA, recording"]


def test_kernels(found: tuple[Cost, Cost]) -> None:
    plain, proma = found
    assert len(proma.kernels) <= 1.27 * len(plain.kernels)


def test_time_by_the_model(found: tuple[Cost, Cost]) -> None:
    plain, proma = found
    assert proma.seconds() <= 1.15 * plain.seconds()


def test_bytes(found: tuple[Cost, Cost]) -> None:
    plain, proma = found
    assert proma.bytes <= 1.2 * plain.bytes


def test_products_are_in_the_type_that_arrives(found: tuple[Cost, Cost]) -> None:
    _, proma = found
    written_out = sum(kernel.operations for kernel in proma.kernels if "fused_products" in kernel.name)  # Gram matrices
    products = proma.operations(torch.float32) - written_out, proma.operations(torch.bfloat16)
    assert products[0] <= 0.01 * sum(products)


def test_waits(found: tuple[Cost, Cost]) -> None:
    """For the checks that log-probs and advantages are finite, and for nothing else."""
    plain, proma = found
    assert plain.waits == 0 and proma.waits <= 2
