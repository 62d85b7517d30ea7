"""Sequence gradients of linear layers against a sum over tokens in float64, for one use and several, in any type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from proma_bench.backward import factors
from proma_bench.backward.cost import GramMethod
from proma_bench.backward.factors import Dense, OuterProducts, Scattered, joined
from proma_bench.backward.measure import Workspace, add_weighted, measure, plain_gradient

B, OUT, IN = 3, 7, 5
TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def factors_of(lengths: list[int], dtype: torch.dtype, scale: float = 1.0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(len(lengths))

    def draw(*shape: int) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)

    return [(draw(B, length, OUT), draw(B, length, IN)) for length in lengths]


def wanted(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """S [B, out, in], token by token."""
    total = torch.zeros(B, OUT, IN, dtype=torch.float64)
    for left, right in pairs:
        for token in range(left.shape[1]):
            total += left[:, token].double().unsqueeze(2) * right[:, token].double().unsqueeze(1)
    return total


def compute(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def uses_of(pairs: list[tuple[Tensor, Tensor]]) -> Any:
    return joined([OuterProducts(left, right, compute(left.dtype)) for left, right in pairs])


@pytest.fixture(params=["as it is", "with 16-bit products"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of 16-bit tensors into float32 exist on a GPU only: here they are computed as a GPU defines them."""
    if request.param == "as it is":
        return

    def bmm(left: Tensor, right: Tensor, out_dtype: torch.dtype, *, out: Tensor) -> None:
        assert left.dtype == right.dtype and left.dtype.itemsize == 2
        out.copy_((left.double() @ right.double()).to(out_dtype))

    def baddbmm(base: Tensor, left: Tensor, right: Tensor, out_dtype: torch.dtype, *, out: Tensor) -> None:
        out.copy_((base.double() + left.double() @ right.double()).to(out_dtype))

    original: dict[str, Callable[..., Any]] = {"bmm": torch.bmm, "baddbmm": torch.baddbmm}

    def or_original(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def either(*args: Any, **kwargs: Any) -> Any:
            return (own if isinstance(args[-1], torch.dtype) else original[name])(*args, **kwargs)

        return either

    monkeypatch.setattr(torch, "bmm", or_original("bmm", bmm))
    monkeypatch.setattr(torch, "baddbmm", or_original("baddbmm", baddbmm))
    monkeypatch.setattr(factors, "has_mixed_products", lambda _: True)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("lengths", [[4], [1], [2, 3], [1, 1, 6, 2]], ids=str)
@pytest.mark.parametrize("at_once", [1, 40, 2**23])
def test_rows_and_sums_are_those_of_the_tokens(
    lengths: list[int], dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factors, "AT_ONCE", at_once)
    pairs = factors_of(lengths, dtype)
    (use,), expected = uses_of(pairs), wanted(pairs)
    tolerance: dict[str, Any] = (
        {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    )
    weights = torch.tensor([1.0 / 3, -2.0, 1e-3], dtype=compute(dtype))
    for start, stop in ((0, OUT), (2, 5), (6, 7)):
        rows = torch.full((B, stop - start, IN), torch.nan, dtype=compute(dtype))
        use.write_rows(rows, start, add=False)
        torch.testing.assert_close(rows.double(), expected[:, start:stop], **tolerance)
        use.write_rows(rows, start, add=True)
        torch.testing.assert_close(rows.double(), 2 * expected[:, start:stop], **tolerance)
        total = torch.full((stop - start, IN), torch.nan, dtype=compute(dtype))
        use.weighted_sum(total, weights, start, add=False)
        of_tokens = torch.einsum("b,boi->oi", weights.double(), expected[:, start:stop])
        torch.testing.assert_close(total.double(), of_tokens, **tolerance)
        use.weighted_sum(total, weights, start, add=True)
        torch.testing.assert_close(total.double(), 2 * of_tokens, **tolerance)
    torch.testing.assert_close(use.token_gram().double(), torch.einsum("boi,coi->bc", expected, expected), **tolerance)
    left, right, ids = use.rows(1, 3)
    torch.testing.assert_close((left.T @ right).double(), expected[1:3].sum(0), **tolerance)
    assert ids.tolist() == [1] * sum(lengths) + [2] * sum(lengths)


@pytest.mark.usefixtures("device")
def test_weights_are_not_rounded_to_the_type_of_the_factors() -> None:
    """The corrected advantages decide what is orthogonal to what: 16 bits would undo the projection."""
    (left, right), weights = factors_of([4], torch.bfloat16)[0], torch.tensor([1 + 2.0**-12, -1.0, 2.0**-12])
    left[1], right[1] = left[0], right[0]
    gradient = plain_gradient([OuterProducts(left, right, torch.float32)], weights, torch.Size([OUT, IN]))
    expected = 2.0**-12 * (wanted([(left, right)])[0] + wanted([(left, right)])[2])
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-2, atol=1e-6)


def test_an_input_is_rounded_as_it_was_for_the_forward_pass() -> None:
    """Under autocast a layer multiplies its input rounded to bfloat16: that product has this gradient."""
    layer, inputs = torch.nn.Linear(IN, OUT, bias=False), torch.randn(B, 4, IN)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(inputs)
    seed = torch.randn(B, 4, OUT).bfloat16()
    output.backward(seed)
    gradient = plain_gradient([OuterProducts(seed, inputs, torch.float32)], torch.ones(B), torch.Size([OUT, IN]))
    rounded = wanted([(seed, inputs.bfloat16())]).sum(0)
    torch.testing.assert_close(gradient.double(), rounded, rtol=1e-5, atol=1e-5)
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad.double(), rounded, rtol=2e-2, atol=2e-2)  # summed in bfloat16


def test_uses_of_one_form_are_joined_and_others_stay() -> None:
    low, high = (uses_of(factors_of([2, 3], dtype))[0] for dtype in (torch.bfloat16, torch.float32))
    dense, table = (
        Dense(torch.ones(B, OUT, IN)),
        Scattered(torch.zeros(B, 2, dtype=torch.long), torch.ones(B, 2, IN), torch.float32),
    )
    uses = [low, dense, high, table, high]
    found = joined(uses)
    assert [type(use) for use in found] == [OuterProducts, OuterProducts, Dense, Scattered]
    assert found[0] is low and found[1].right.shape[1] == 10  # type: ignore[attr-defined]
    assert high.right.shape[1] == 5, "the uses themselves are as they were"


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("method", ["rows", "tokens"])
@pytest.mark.parametrize("limit", [1, 2000, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_measured_in_blocks_or_at_once(limit: int, dtype: torch.dtype, method: GramMethod) -> None:
    """Gram matrix, overlaps and the weighted sum, whatever the workspace allows to keep."""
    pairs, running = factors_of([2, 1, 3], dtype), torch.randn(OUT, IN, generator=torch.Generator().manual_seed(9))
    uses = [OuterProducts(left, right, torch.float32) for left, right in pairs]
    expected, weights = wanted(pairs), torch.tensor([0.3, -1.0, 2.0])
    measured = measure(uses, running, running.shape, weights, Workspace(limit), method)
    torch.testing.assert_close(
        measured.gram.double(), torch.einsum("boi,coi->bc", expected, expected), rtol=1e-5, atol=1e-5
    )
    overlap = torch.einsum("boi,oi->b", expected, running.double())
    torch.testing.assert_close(measured.overlap.double(), overlap, rtol=1e-5, atol=1e-5)
    out = running.clone()
    add_weighted(measured, weights, out)
    torch.testing.assert_close(
        out.double(), running.double() + torch.einsum("b,boi->oi", weights.double(), expected), rtol=1e-5, atol=1e-5
    )
