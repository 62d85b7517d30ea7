"""Which sequence each row of a gradient belongs to, found out instead of assumed.

Seed the backward pass of ``sum_i v_i log p_i`` with powers of two ``v_i`` instead of ones. Where row ``r`` of a
gradient belongs to sequence ``i`` alone, it is multiplied by exactly ``v_i``: a power of two changes no digit of it. So
the ratio of the two gradients names the sequence, and a row that mixes sequences is seen, as its ratio is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from proma_bench.backward.layout import Layout

RowKind = Literal["rows", "flat", "second", "turned", "sums", "moving", "mixed", "unknown"]
"""How the rows of a tensor follow from the microbatch's layout.

rows: as the layout says; flat: likewise, with the leading axes flattened, or joined with the next; second: the sequence
is the second axis; turned: likewise, with both axes flattened; sums: the first axis is the sequence although there are
``sequence_ids``, as of rows that were added up by them; moving: by an order that depends on data; mixed: a row belongs
to more than one sequence; unknown: too few rows have a gradient to tell.
"""

_SIGNIFICANT = {torch.float64: 2.0**-40}  # of the largest row; what is smaller may be rounding
_SIGNIFICANT_ELSE = 2.0**-20
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # of a ratio, which is exact but for sums in another order
_LOW_PRECISION = 2e-2


def digits_base(dtype: torch.dtype) -> int:
    """How many powers of two one pass can tell apart."""
    return 4 if dtype == torch.float16 else 32  # float16 would underflow


def seed_weights(sequences: int, base: int) -> list[Float[Tensor, " B"]]:
    """``2^-d`` for each digit ``d`` of the sequences' numbers to this base: one vector per digit, hence per pass.

    And one more in another order, as a witness: a sum over several sequences may be a power of two by chance.
    """
    if sequences == 1:
        return []
    numbers, weights = torch.arange(sequences), [_witness(torch.arange(sequences), base)]
    while bool(numbers.any()):
        weights.append(torch.exp2(-(numbers % base).double()))
        numbers = numbers // base
    return weights


def _witness(numbers: Int[Tensor, "*rows"], base: int) -> Float[Tensor, "*rows"]:
    return torch.exp2(-((13 * numbers + 5) % base).double())


def sketch(gradient: Tensor, row_axes: int) -> Float[Tensor, "*leading"]:
    """One number for each row, linear in it: a sum over the last axis, with weights that suit no row in particular.

    A tensor without any other axes than the ``row_axes`` that enumerate rows is its own sketch.
    """
    if gradient.ndim <= row_axes:
        return gradient.clone()
    columns = torch.arange(1, gradient.shape[-1] + 1, device=gradient.device, dtype=torch.float64)
    weights = (columns * 0.6180339887498949).frac() + 0.5
    return gradient @ weights.to(gradient.dtype)


def owners(
    plain: Float[Tensor, "*leading"], weighted: Sequence[Float[Tensor, "*leading"]], sequences: int, base: int
) -> Int[Tensor, "*leading"] | None:
    """The sequence of each row, -1 for a row without a gradient; None where a row mixes several.

    Args:
        plain: sketches of the gradient for seeds of one.
        weighted: the same for each vector of `seed_weights`.
        sequences: B.
        base: as for `seed_weights`.
    """
    tolerance = _TOLERANCE.get(plain.dtype, _LOW_PRECISION)
    smallest = _SIGNIFICANT.get(plain.dtype, _SIGNIFICANT_ELSE)
    plain = plain.double()
    largest = plain.abs().amax() if plain.numel() else plain.new_zeros(())
    significant = plain.abs() > smallest * largest
    clean = plain != 0  # a small row keeps its sequence, too, if its ratios are clean
    found, place = torch.zeros_like(plain, dtype=torch.long), 1
    for number, values in enumerate(weighted):
        values = values.double()
        if not bool((values.abs() <= 2 * smallest * largest)[~significant].all()):
            return None  # a gradient that cancels only where all sequences have the same weight
        if number == 0:
            continue  # the witness, who is heard last
        ratio = torch.where(clean, values / plain.where(clean, 1.0), 1.0).clamp_min(0.0)
        exponent = ratio.log2().round().clamp(1 - base, 0)
        clean &= (ratio - exponent.exp2()).abs() <= tolerance * exponent.exp2()
        found += -exponent.long() * place
        place *= base
    clean &= found < sequences
    for values in weighted[:1]:
        expected = _witness(found, base) * plain
        clean &= (values.double() - expected).abs() <= tolerance * expected.abs()
    return found.masked_fill(~clean, -1) if bool(clean[significant].all()) else None


def row_kind(found: Int[Tensor, "*leading"] | None, shape: torch.Size, layout: Layout) -> RowKind:
    """How the rows of a tensor of this shape follow from the layout."""
    if found is None:
        return "mixed"
    if bool((found < 0).all()):
        return "unknown"
    kinds: tuple[RowKind, ...] = ("rows", "flat", "second", "turned", "sums")
    candidates = ((kind, layout_of(kind, shape, layout)) for kind in kinds)
    fitting = [(kind, own) for kind, own in candidates if own is not None and own.agrees(found)]
    if not fitting:
        return "moving"
    if len(fitting) > 1 and fitting[-1][0] == "sums":
        return "moving"  # these sequence_ids happen to be in order; others may not be
    orders = [own.spread(found.shape) for _, own in fitting]
    is_clear = all(torch.equal(order, orders[0]) for order in orders[1:])
    return fitting[0][0] if is_clear else "unknown"


def layout_of(kind: RowKind, shape: torch.Size, layout: Layout) -> Layout | None:
    """The layout of a tensor of this kind and shape; None where they do not go together."""
    if kind == "rows":
        return layout if layout.mismatch(shape) is None else None
    if kind == "flat":
        return layout.flat(shape)
    if kind == "second":
        return layout.second(shape)
    if kind == "turned":
        return layout.turned(shape)
    return layout.sums(shape) if kind == "sums" else None


def moving_layout(found: Int[Tensor, "*leading"], sequences: int) -> Layout:
    """The layout of rows whose sequences have been found; rows without a gradient may belong to any."""
    while found.ndim > 0:  # none is left where all rows are of one sequence, as those of a layer called on a vector
        largest = found.amax(dim=-1, keepdim=True)
        if not bool(((found == largest) | (found < 0)).all()):
            break
        found = largest.squeeze(-1)
    return Layout(sequences, found.clamp_min(0))
