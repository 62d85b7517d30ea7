"""What a backward pass of PROMA costs beyond the plain one, counted in multiplications, and the choices it decides.

For ``B`` sequences, ``N`` rows (tokens, steps) in all and a weight of ``outputs x inputs`` there are two ways to the
Gram matrix ``K``, the overlaps ``c`` and the sum ``A += sum_i u_i S_i``:

    rows    write S out (one batched product), K = S S', c = S A, A += u S
    tokens  K from the products of all pairs of rows, (G G') * (X X'); c = (G A) * X; A += (u G)' X

The constants are rounded measurements on CPUs. A choice that is slightly wrong costs little.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch

GramMethod = Literal["auto", "rows", "tokens"]
GRAM_METHODS: tuple[str, ...] = ("auto", "rows", "tokens")

FLAT_PRODUCT = 3.0  # a multiplication in S S', a product of very flat matrices, against one in a square product
PASS = 2.0  # multiplications in the time of reading or writing one number of S
CALLS = 2e6  # multiplications in the time of the Python and kernel calls that one parameter tensor needs in a pass


def cheaper_gram_method(sequences: int, rows: int, outputs: int, inputs: int) -> GramMethod:
    """``rows`` or ``tokens`` for the weight of a linear layer that is used once."""
    written, pairs = _both_costs(sequences, rows, outputs, inputs)
    return "tokens" if pairs < written else "rows"


def _both_costs(sequences: float, rows: float, outputs: int, inputs: int) -> tuple[float, float]:
    weight = outputs * inputs
    written = (rows + FLAT_PRODUCT * sequences**2 + 3 * PASS * sequences) * weight
    pairs = rows**2 * (outputs + inputs + PASS) + 2 * rows * weight
    return written, pairs


def microbatches_per_pass(shapes: Iterable[torch.Size], size: int, rows_per_sequence: float, microbatches: int) -> int:
    """How many virtual microbatches of ``size`` sequences to take in one backward pass, from 1 to ``microbatches``.

    Small models gain from few large passes, until the Gram matrix of all their sequences costs more than the calls.
    """
    shapes = list(shapes)

    def cost_of_one(joined: int) -> float:
        sequences = joined * size
        return sum(CALLS + _tensor(shape, sequences, sequences * rows_per_sequence) for shape in shapes) / joined

    candidates = {min(2**power, microbatches) for power in range(microbatches.bit_length() + 1)}
    result: int = min(sorted(candidates), key=cost_of_one)
    return result


def _tensor(shape: torch.Size, sequences: float, rows: float) -> float:
    if len(shape) == 2:
        return min(_both_costs(sequences, rows, *shape))
    return FLAT_PRODUCT * sequences**2 * shape.numel()
