"""Checks of lesson 7, *Your own projection*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from checks import exercise
from proma_bench import project
from proma_bench.cli.verify import describe
from proma_bench.testing import assert_permutation_invariant, examine_projection, rounding_tolerance

Projection = Callable[[Tensor, Tensor], Tensor]

MEANINGS = {  # the first one that applies is said
    "finite": "It does not return a finite tensor of the running gradient's shape",
    "orthogonal to": "Something is left that a sequence still sees",
    "norm not increased": "It overshoots: the step got longer than it was",
    "in span": "It removes something that no sequence of the microbatch sees",
    "first microbatch is plain": "From a running gradient of zero something was removed",
    "scale invariant": "It depends on how long the sequence gradients are, and only their directions matter",
    "sign invariant": "It tells S from −S, and both span the same line",
    "zero invariant": "A gradient of zero, a sequence that sees nothing, disturbs it",
    "duplicate invariant": "A sample that occurs twice is removed twice",
    "permutation invariant": "It depends on the order of the sequences",
    "idempotent": "Doing it twice removes more than doing it once",
}


@exercise
def own_projection(answer: Projection) -> str:
    """A projection of the reader's against every promise."""
    findings = examine_projection(answer, examples=100)
    broken = {finding.name: finding for finding in findings if not finding.holds}
    for name, meaning in MEANINGS.items():
        if name in broken:
            raise AssertionError(
                f"{len(broken)} of {len(findings)} promises are broken. {meaning} ({broken[name].failure}). "
                f"A small input that shows it:\n\n```\n{describe(answer, broken[name].counterexample)}\n```"
            )
    return f"All {len(findings)} promises hold on everything that Hypothesis drew. It is a projection."


@exercise
def order_matters(running: Tensor, seq_grads: Tensor) -> str:
    """An input on which one sweep of sequential subtraction depends on the order of the sequences."""
    running, seq_grads = torch.as_tensor(running).double(), torch.as_tensor(seq_grads).double()
    assert running.shape == (2,) and seq_grads.shape == (2, 2), (
        f"Two sequences and two parameters: running [2] and seq_grads [2, 2], not {list(running.shape)} and "
        f"{list(seq_grads.shape)}."
    )
    unit = torch.nn.functional.normalize(seq_grads, dim=1)
    cosine = float(unit[0] @ unit[1])
    assert abs(cosine) > 1e-9, "Perpendicular gradients do not disturb each other: any order gives the same."
    assert abs(cosine) < 1 - 1e-9, "Parallel gradients span one line: any order gives the same."
    try:
        assert_permutation_invariant(one_sweep, running, seq_grads)
    except AssertionError as error:
        return f"The cosine of your gradients is {cosine:.2f}, and: {error}."
    raise AssertionError("The gradients are fine, but of this running gradient neither order leaves anything else.")


def one_sweep(running: Tensor, seq_grads: Tensor) -> Tensor:
    """One after another, once."""
    return project(running, seq_grads, method="iterative", sweeps=1)


@exercise
def span_invariant(answer: Callable[[Projection, Tensor, Tensor], bool]) -> str:
    """A promise of the reader's: only the span of the sequence gradients matters."""
    generator = torch.Generator().manual_seed(1)
    running, seq_grads = torch.randn(5, generator=generator), torch.randn(3, 5, generator=generator)
    running, seq_grads = running.double(), seq_grads.double()
    assert answer(project, running, seq_grads), (
        "You accuse the exact projection, which keeps this promise. Are the new gradients a basis of the same span, "
        "and do you leave room for rounding?"
    )
    assert not answer(one_sweep, running, seq_grads), (
        "One sweep of sequential subtraction breaks this promise, and you let it pass. Scaling or reordering is not "
        "enough: mix the gradients."
    )
    assert not answer(lambda a, s: project(a, s[:1]), running, seq_grads), (
        "A projection that looks at the first sequence only breaks this promise, and you let it pass."
    )
    return (
        f"Right ones pass, to {rounding_tolerance(running):.0e} or whatever you allowed, and two wrong ones are caught."
    )
