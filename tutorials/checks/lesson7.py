"""Checks of lesson 7, *Your own projection*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from checks import exercise, normal, number, tensor
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
    what = "Two sequences and two parameters: running [2] and seq_grads [2, 2]"
    running, seq_grads = tensor(running, (2,), what), tensor(seq_grads, (2, 2), what)
    assert bool(seq_grads.any(dim=1).all()), "A gradient of zero removes nothing, first or last."
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
    draw = normal(1)
    problems = [(draw(5), draw(3, 5)), (draw(2, 4), draw(3, 2, 4))]
    for running, seq_grads in problems:
        assert _truth(answer(project, running, seq_grads)), (
            "You accuse the exact projection, which keeps this promise. Are the new gradients a basis of the same "
            "span, and do you leave room for rounding?"
        )
    for wrong, words in WRONG.items():
        for running, seq_grads in problems:
            assert not _truth(answer(wrong, running, seq_grads)), (
                f"{words} breaks this promise, and you let it pass. {MIX}"
            )
    return (
        f"Right ones pass, to {rounding_tolerance(running):.0e} or whatever you allowed, and {len(WRONG)} wrong ones "
        "are caught."
    )


def _truth(found: object) -> bool:
    """True or False, of whatever library."""
    truth = number(found, "Return True or False")
    assert truth in (True, False), f"Return True or False, and not {truth:g}."
    return bool(truth)


def first_alone(running: Tensor, seq_grads: Tensor) -> Tensor:
    """Away from the first sequence, whatever the others are."""
    return project(running, seq_grads[:1])


def all_at_once(running: Tensor, seq_grads: Tensor) -> Tensor:
    """The components along all sequences, subtracted at once; in any order, of any length and sign the same."""
    units = torch.nn.functional.normalize(seq_grads.reshape(len(seq_grads), -1), dim=1)
    return running - ((units @ running.flatten()) @ units).reshape(running.shape)


WRONG = {
    one_sweep: "One sweep of sequential subtraction",
    first_alone: "A projection that looks at the first sequence only",
    all_at_once: "Subtracting all components at once, as at the beginning of this lesson,",
}
MIX = "Scaling, negating or reordering is not enough: mix the gradients."
