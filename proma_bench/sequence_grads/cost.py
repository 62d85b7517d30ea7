"""Which way to a layer's Gram matrix and overlaps is the cheaper one: a count of multiplications and passes.

For ``B`` sequences, ``N`` tokens in all and a weight of ``outputs x inputs``:

    rows    write S out (one batched product), K = S S', c = S A, and in the end A += u S
    tokens  K from the products of all pairs of tokens, (G G') * (X X'); c = G A * X; A += (u G)' X in the end

The Gram matrix in the way ``rows`` is a product of very flat matrices and counts more than its multiplications.
"""

from __future__ import annotations

from typing import Literal

Way = Literal["auto", "rows", "tokens"]
WAYS: tuple[str, ...] = ("auto", "rows", "tokens")

FLAT_PRODUCT = 3.0  # cost of a multiplication in S S' against one in a square product, as measured on CPUs
PASS = 2.0  # multiplications in the time of reading or writing a number of S once


def cheaper_way(sequences: int, tokens: int, outputs: int, inputs: int) -> Way:
    """``rows`` or ``tokens`` for the weight of a linear layer that is used once."""
    weight = outputs * inputs
    rows = tokens * weight + FLAT_PRODUCT * sequences**2 * weight + 3 * PASS * sequences * weight
    pairs = tokens**2 * (outputs + inputs + PASS) + 2 * tokens * weight
    return "tokens" if pairs < rows else "rows"
